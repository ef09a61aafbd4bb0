"""The residual stream of a sink, by dimension (Kang et al. 2025, figures 2 and 7)."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..kernels import normalised, sink_value
from ..model import LMM, ImageInput, Tick
from ..model.progress import shown
from ..probes import Resid
from ..results.result import Result
from .provenance import with_provenance


@final
@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Result):
    """The absolute RMS-normalised residual stream of a few tokens, by dimension.

    **Attributes:**

    - `values`: one row per token, in units of the token's root mean square: 1 is an average
        coordinate, and no coordinate exceeds the square root of `d_model`.
    - `tokens`: the kind of token of each row; `visual sink` is missing if there is none.
    - `positions`: the position of each token in the prompt.
    - `layer`: the layer that the residual stream enters.
    - `dims`, `tau`: the model's sink dimensions and its threshold.
    """

    figure: ClassVar[str] = "spectrum"
    measured: ClassVar[tuple[str, ...]] = ("values",)

    values: Float[np.ndarray, "token d_model"]
    tokens: tuple[str, ...]
    positions: tuple[int, ...]
    layer: int
    dims: tuple[int, ...]
    tau: float


@with_provenance
def spectrum(
    lmm: LMM,
    image: ImageInput,
    prompt: str,
    *,
    layer: int | None = None,
    tick: Tick | None = None,
) -> Spectrum:
    """The spectrum of the first token, the strongest visual sink, and an ordinary image token.

    The ordinary one is the image token with median phi.

    ```python
    found = ex.spectrum(lmm, image, prompt)
    found.tokens, found.values.shape                              # found.plot() draws it
    ```

    **Arguments:**

    - `layer`: the layer whose input is shown; the middle one by default.
    - `tick`: called in the place of a progress bar, after every pass of the model.

    **Raises:** `CapabilityError` if the model has no sink dimensions; `LayoutError` if the prompt
    has no image token.
    """
    encoding = lmm.encode(image, prompt)
    encoding.layout.check_group("image")
    at = lmm.n_layers // 2 if layer is None else layer
    probe = Resid("all", layers=at, at="pre")
    # Unlike run, it computes, and fetches from a server, the logits of the last row alone.
    run = lmm.generate(encoding, graph=probe, max_new_tokens=1)
    shown(tick, "passes")(1, 1)
    resid = run[probe].values[0, :1]
    phi = sink_value(resid, lmm.sinks.dims)[0]
    tokens = run.layout.mask("image")[0].nonzero().flatten()
    chosen = {"first token": _first(run.layout.mask("all")[0])}
    strongest = int(tokens[phi[tokens].argmax()])
    if phi[strongest] >= lmm.sinks.tau:
        chosen["visual sink"] = strongest
    chosen["other image token"] = int(tokens[phi[tokens].argsort()[len(tokens) // 2]])
    values = normalised(resid)[0, list(chosen.values())].abs().numpy()
    return Spectrum(
        values, tuple(chosen), tuple(chosen.values()), at, lmm.sinks.dims, lmm.sinks.tau
    )


def _first(real: Tensor) -> int:
    return int(torch.argmax(real.int()))
