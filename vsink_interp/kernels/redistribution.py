"""Visual Attention Redistribution: move attention from sinks to the other image tokens."""

import torch
from torch import Tensor


def redistribute(
    pattern: Tensor,
    sink: Tensor,
    image: Tensor,
    *,
    p: float,
    rho: float,
    min_image_mass: float = 0.2,
    rows: "Tensor | None" = None,
    mode: str = "paper",
) -> Tensor:
    """Move the share ``p`` of each sink's attention to visual non-sinks, in image-centric heads.

    Kang et al. (2025), equations (A-5) and (A-6) of our docs. A head is image-centric for a row
    if the row gives the image at least ``min_image_mass`` and at least ``rho`` of that to visual
    non-sinks. Sinks, visual and text, keep ``1 - p``; what they lose goes to the visual
    non-sinks in proportion to what they have. Every row still sums to what it summed to. A row
    with no visual non-sink to receive the budget is left as it is.

    ``pattern`` is batch head query key; ``sink`` and ``image`` are batch key; ``rows`` is batch
    query: the rows that may change, all by default.

    Raises ValueError for shares outside 0 to 1, or another mode.

    ``mode="released-code"`` follows the authors' program: ``p`` is the share *kept*, ``rho`` the
    largest *sink* ratio, 1e-6 is added to each image weight in the ratio, and a sample without
    a visual sink is left alone. ``p`` and ``rho`` mean the opposite of the paper's.
    """
    if mode not in ("paper", "released-code"):
        raise ValueError(f"mode {mode!r} is not one of: paper, released-code")
    if not all(0 <= share <= 1 for share in (p, rho, min_image_mass)):
        raise ValueError(
            f"p, rho and min_image_mass are shares from 0 to 1; got {p}, {rho}, {min_image_mass}"
        )
    released = mode == "released-code"
    moved = 1 - p if released else p
    visual_sink, fresh = sink & image, image & ~sink
    wide = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
    columns = torch.stack([image, visual_sink, fresh, sink], -1)[:, None].to(wide.dtype)
    mass, in_sinks, in_fresh, in_all = (wide @ columns).unbind(-1)
    if released:
        ratio = in_sinks / (mass + 1e-6 * image.sum(-1)[:, None, None])
        selected = (ratio <= rho) & visual_sink.any(-1)[:, None, None]
    else:
        selected = in_fresh >= rho * mass
    selected = selected & (mass >= min_image_mass) & (in_fresh > 0)
    if rows is not None:
        selected = selected & rows[:, None]
    gain = moved * in_all / in_fresh.clamp_min(torch.finfo(in_fresh.dtype).tiny)
    change = fresh[:, None, None] * gain[..., None] - moved * columns[..., 3][:, :, None]
    return torch.where(selected[..., None], wide + wide * change, wide).to(pattern.dtype)
