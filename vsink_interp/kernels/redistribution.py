"""Visual Attention Redistribution: move attention from sinks to the other image tokens.

In two steps: first, once per layer, what depends only on tokens; then what depends on the pattern.
"""

import torch
from torch import Tensor


def redistribution_terms(
    sink: Tensor,
    image: Tensor,
    *,
    rho: float,
    mode: str = "paper",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What `redistribute` asks of every key: batch term key.

    The first three terms are tests. A head is image-centric for a row (Kang et al. 2025, equation
    A-5' of docs/papers.md) if each test, weighted by the row's pattern and added to its constant of
    `redistribution_offsets`, is above zero:

    0. the non-sink ratio reaches ``rho``;
    1. the image gets at least ``min_image_mass``;
    2. there is a visual non-sink to receive the budget: one at visual non-sinks.

    Term 3 is one at sinks, visual and text, term 4 minus one at visual non-sinks. ``sink`` and
    ``image`` are batch key. A ratio that equals ``rho`` to rounding (1e-7) reaches it.

    Raises ValueError for ``rho`` outside 0 to 1, or another mode.

    ``mode="released-code"`` follows the authors' program: ``rho`` is the largest *sink* ratio, 1e-6
    is added to each image weight in the ratio, and a sample without a visual sink is left alone.
    """
    if mode not in ("paper", "released-code"):
        raise ValueError(f"mode {mode!r} is not one of: paper, released-code")
    if not 0 <= rho <= 1:
        raise ValueError(f"rho is one of the shares from 0 to 1; got {rho}")
    visual, fresh, drop = (x.to(dtype) for x in (image, image & ~sink, sink))
    # Each test is an inequality between sums over the keys of a row with pattern a. With everything
    # on one side it is a single sum of a times a term, which is what is stacked here:
    #   ratio   sum(fresh a) / sum(visual a) >= rho    <=>  sum((fresh - rho visual) a) >= 0
    #   image   sum(visual a) >= least = least sum(a)  <=>  sum((visual - least) a) >= 0
    #   theirs  sum(drop visual a) / (sum(visual a) + 1e-6 n) <= rho, with n image tokens
    if mode == "paper":
        ratio = fresh - rho * visual
    else:
        # Below any offset: a sample without a visual sink fails the test in every row.
        ratio = rho * visual - drop * visual
        ratio = torch.where((sink & image).any(-1, keepdim=True), ratio, -1.0)
    return torch.stack([ratio + 1e-7 * visual, visual, fresh, drop, -fresh], 1)


def redistribution_offsets(
    image: Tensor,
    *,
    rho: float,
    min_image_mass: float = 0.2,
    mode: str = "paper",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What `redistribute` adds to the weighed terms of a row: batch 1 term.

    Bounds on shares of all attention, whatever a row sums to: with learned sinks it is less than
    one. ``image`` is batch key. A share that equals ``min_image_mass`` to rounding (1e-6) reaches
    it.

    Raises ValueError for ``min_image_mass`` outside 0 to 1.
    """
    if not 0 <= min_image_mass <= 1:
        raise ValueError(f"min_image_mass is one of the shares from 0 to 1; got {min_image_mass}")
    found = torch.zeros(len(image), 1, 5, dtype=dtype, device=image.device)
    if mode == "released-code":
        found[:, 0, 0] = 1e-6 * rho * image.sum(-1)
    found[..., 1] = 1e-6 - min_image_mass
    found[..., 2] = -1e-37  # a budget divided by less would leave the range of fp32
    return found


def redistribute(
    pattern: Tensor,
    terms: Tensor,
    offsets: Tensor,
    moved: float,
    rows: "Tensor | None" = None,
) -> Tensor:
    """Move a share of each sink's attention to visual non-sinks, in image-centric heads.

    Kang et al. (2025), equation A-6 of docs/papers.md. Sinks, visual and text, keep ``1 - moved``;
    what they lose goes to the visual non-sinks in proportion to what they have. Every row still
    sums to what it summed to, and rows that are not selected keep every bit.

    ``pattern`` is batch head query key, of any precision; ``terms`` is batch term key, of
    `redistribution_terms`; ``offsets`` is batch 1 term, of `redistribution_offsets`; ``rows`` is
    batch query: the rows that may change, all by default.

    Raises ValueError for a share outside 0 to 1.
    """
    if not 0 <= moved <= 1:
        raise ValueError(f"moved is one of the shares from 0 to 1; got {moved}")
    kind = pattern.dtype
    flat = pattern.flatten(1, 2)
    if kind in (torch.bfloat16, torch.float16):
        flat = flat.float()
    if terms.dtype != flat.dtype:
        terms, offsets = terms.to(flat.dtype), offsets.to(flat.dtype)
    sums = torch.baddbmm(offsets, flat, terms.transpose(1, 2))
    left = sums[..., :3].amin(-1, keepdim=True) <= 0
    if rows is not None:
        left = left | ~rows.repeat(1, pattern.shape[1])[..., None]
    # What non-sinks have and what sinks have to give, per unit of the former: 1 and the gain.
    gains = (sums[..., 2:4] / sums[..., 2:3]).masked_fill(left, 0.0)
    # Per unit of attention and of ``moved``: what a sink loses, less what a non-sink gains.
    loss = torch.bmm(gains, terms[:, 3:])
    new = torch.addcmul(flat, flat, loss, value=-moved).view(pattern.shape)
    return new if new.dtype == kind else new.to(kind)
