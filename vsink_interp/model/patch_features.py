"""The patches of the vision encoder that each image token was made of."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import CapabilityError
from ..probes import Activation, Resid
from ..results import Run
from ..tokens import View

FEATURES, PROJECTED = (Activation(f"vision_projector.hook_{side}") for side in ("in", "out"))
ENTERING = Resid("image", 0, at="pre")
RATIO = 2.0
"""The norm of a V-sink is at least this many times the median norm of the patches of its image."""


def patch_features(
    lmm: Any, run: Run, entering: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token patch d_vision"]:
    """The projector's input for image tokens of a run; NaN for tokens that it did not make.

    **Arguments:**

    - `run`: recorded `FEATURES` and `PROJECTED`.
    - `entering`: the image tokens as they enter the first layer, of any image of the run.

    **Raises:** `CapabilityError` if the projector mixes patches, so that they cannot be assigned to
    tokens.
    """
    given = run[FEATURES].values.float().flatten(0, -2)
    made = run[PROJECTED].values.flatten(0, -2)
    views = [view for row in run.layout.images for span in row for view in span.parts]
    grouped = _by_token(given, len(made), lmm.hooked.family.merged, views)
    # Tokens are matched by value, for some models put patches into another order behind the
    # projector, and newline tokens between them.
    distance = torch.cdist(_unit(entering), _unit(made))
    nearest = distance.min(-1)
    is_patch = nearest.values < 1e-2
    if grouped is None or not is_patch.any():
        raise CapabilityError(
            f"{lmm.name}: the projector makes {len(made)} vectors of {len(given)} patches, and "
            f"{int(is_patch.sum())} of {len(entering)} image tokens are one of them; V-sinks are "
            "told apart where each image token has patches of its own"
        )
    return grouped[nearest.indices].masked_fill(~is_patch[:, None, None], torch.nan)


def patch_norms(
    features: Float[Tensor, "token patch d_vision"], ratio: float = RATIO
) -> tuple[Float[Tensor, " token"], float]:
    """The norm of each token's largest patch, and the least norm of a V-sink of that image.

    **Arguments:**

    - `features`: of the tokens of one image, as `patch_features` gives them.
    - `ratio`: that least norm, in medians of the norms.
    """
    norms = features.norm(dim=-1).amax(-1)
    return norms, ratio * float(norms.nanmedian())


def _by_token(
    given: Float[Tensor, "patch d_vision"], n_made: int, merged: str, parts: Sequence[View]
) -> Float[Tensor, "made merged d_vision"] | None:
    """The patches that the projector made each of its vectors of; None where that is not known."""
    n_merged = len(given) // n_made
    if len(given) != n_merged * n_made or (not merged and n_merged > 1):
        return None
    if merged != "squares":
        return given.unflatten(0, (n_made, n_merged))
    side = round(n_merged**0.5)
    sizes = [view.grid[0] * view.grid[1] * n_merged for view in parts]
    if side**2 != n_merged or sum(sizes) != len(given):
        return None
    views = zip(given.split(sizes), parts, strict=True)
    return torch.cat([_squares(patches, view.grid, side) for patches, view in views])


def _squares(
    patches: Float[Tensor, "patch d_vision"], grid: tuple[int, int], side: int
) -> Float[Tensor, "token merged d_vision"]:
    """Patches of one view in raster order, grouped by the square of `side` that they lie in."""
    rows, columns = grid
    squares = patches.view(rows, side, columns, side, -1).transpose(1, 2)
    return squares.reshape(rows * columns, side * side, -1)


def _unit(rows: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
    """Rows of length one: a model may scale embeddings behind the projector."""
    return rows.float() / rows.float().norm(dim=-1, keepdim=True)
