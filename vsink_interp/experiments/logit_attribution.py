"""Direct logit attribution by head and segment, and by MLP."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import CapabilityError, InputError
from ..graph import Graphlike, as_graph
from ..model import LMM, Encoding, ImageInput, Readout, Tick, readout
from ..model.progress import shown
from ..probes import LogitAttribution, Projection, Resid
from ..results.result import Result
from ..tokens import SEGMENTS
from .provenance import with_provenance


@final
@dataclass(frozen=True, eq=False, repr=False)
class LogitParts(Result):
    """What each component of a model adds to a token's logit, or to a logit difference.

    The final norm's divisor at this row is held fixed; then the logit is a sum over everything
    written to the residual stream (Elhage et al. 2021).

    **Attributes:**

    - `heads`: the part of each head, by group of keys.
    - `head_total`: the part of each head, over all keys.
    - `attention_bias`: the part of the bias of attention's output projection, by layer.
    - `mlp`: the part of each MLP.
    - `embedding`: the part of the input of layer 0.
    - `offset`: the bias of the unembedding.
    - `elsewhere`: the part of everything else written to the residual stream: DeepStack features
        and edits. 0 up to rounding if there is neither.
    - `logit`: the logit, before a softcap if the model has one.
    - `segments`: the groups of keys.
    - `token`, `against`: the words.
    """

    figure: ClassVar[str] = "logit_attribution"

    heads: Float[np.ndarray, "layer head segment"]
    head_total: Float[np.ndarray, "layer head"]
    attention_bias: Float[np.ndarray, " layer"]
    mlp: Float[np.ndarray, " layer"]
    embedding: float
    offset: float
    elsewhere: float
    logit: float
    segments: tuple[str, ...]
    token: str
    against: str | None

    @property
    def total(self) -> float:
        """The sum of the parts, without `elsewhere`."""
        parts = self.head_total.sum() + self.attention_bias.sum() + self.mlp.sum()
        return float(parts) + self.embedding + self.offset

    def top_heads(self, n: int = 5) -> list[tuple[int, int, float]]:
        """The heads with the largest parts by absolute value: layer, head, logits."""
        order = np.argsort(-np.abs(self.head_total), axis=None)[:n]
        places = [divmod(int(i), self.head_total.shape[1]) for i in order]
        return [(layer, head, float(self.head_total[layer, head])) for layer, head in places]


@with_provenance
def logit_attribution(
    lmm: LMM,
    image: ImageInput | None,
    prompt: str,
    token: str | int | None = None,
    *,
    against: str | int | None = None,
    row: int = -1,
    segments: tuple[str, ...] = SEGMENTS,
    graph: Graphlike = None,
    tick: Tick | None = None,
) -> LogitParts:
    """Split a token's logit into parts of heads by group of keys, MLPs, and the rest.

    ```python
    parts = ex.logit_attribution(lmm, image, "what color is the circle?", "white", against="green")
    parts.heads.shape, parts.segments
    ```

    **Arguments:**

    - `token`: a word that is one token, or its id; by default the model's most likely one.
    - `against`: a second token; the difference of logits is split.
    - `row`: the index of a row among the query rows, from the end if negative; by default the row
        that predicts the first generated token.
    - `segments`: groups of keys, such as `("sink & image", "image & ~sink", "prompt & ~image")`.
    - `graph`: edits that act during the run.
    - `tick`: called in the place of a progress bar, after every pass of the model.

    **Raises:** `CapabilityError` if the final norm is not an RMS norm, if attention's output is not
    the sum of its heads (a norm after attention, as in Gemma 3), or if some layers have no heads
    (Mllama, Qwen3.5); `InputError` for a word of several tokens, or a row that does not exist.
    """
    _refuse_mixed(lmm)
    encoding, read = lmm.encode(image, prompt), readout(lmm)
    edits, place = as_graph(graph), _place(encoding, row)
    tell, passes = shown(tick, "passes"), 1 if token is not None else 2
    if token is None:
        token = int(lmm.run(encoding, graph=edits).logits[0, place].argmax())
        tell(1, passes)
    direction = read.direction(token, against)
    heads = LogitAttribution.along(direction, "query", groups=(*segments, "all"))
    streams = {
        "attention": Projection.along(direction, "hook_attn_out", "query"),
        "mlp": Projection.along(direction, "hook_mlp_out", "query"),
        "embedding": Projection.along(direction, "hook_resid_pre", "query", 0),
    }
    last = Resid("query", lmm.n_layers - 1, at="post")
    run = lmm.run(encoding, graph=edits | heads | as_graph(streams.values()) | last)
    tell(passes, passes)
    (at,) = run[last].places("query", [place])
    final_resid = run[last].values[0, 0, at]
    scale = float(read.scale(final_resid))
    found = {name: run[probe].values[:, 0, at] / scale for name, probe in streams.items()}
    by_head = run[heads].values[:, 0, :, at] / scale
    bias = _attention_bias(lmm, direction) / scale
    _refuse_other_sums(lmm, found["attention"], by_head[..., -1].sum(-1) + bias)
    logit = float(final_resid.float() @ direction) / scale + read.offset(token, against)
    return _parts(by_head, bias, found, logit, read, segments, token, against)


def _place(encoding: Encoding, row: int) -> int:
    """The position of a query row's token."""
    rows = encoding.layout.mask("query")[0].nonzero().flatten().tolist()
    if not -len(rows) <= row < len(rows):
        raise InputError(f"row={row}: the prompt has query rows 0 to {len(rows) - 1}, or -1 back")
    return rows[row]


def _parts(
    by_head: Tensor,
    bias: Tensor,
    found: dict[str, Tensor],
    logit: float,
    read: Readout,
    segments: tuple[str, ...],
    token: str | int,
    against: str | int | None,
) -> LogitParts:
    embedding, offset = float(found["embedding"][0]), read.offset(token, against)
    written = float(by_head[..., -1].sum() + bias.sum() + found["mlp"].sum()) + embedding + offset
    return LogitParts(
        by_head[..., :-1].numpy(),
        by_head[..., -1].numpy(),
        bias.numpy(),
        found["mlp"].numpy(),
        embedding,
        offset,
        logit - written,
        logit,
        segments,
        _word(read, token),
        None if against is None else _word(read, against),
    )


def _word(read: Readout, token: str | int) -> str:
    return token if isinstance(token, str) else read.tokenizer.decode([token]).strip()


def _attention_bias(lmm: LMM, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " layer"]:
    """What the bias of each layer's output projection writes along a direction."""
    hooked, found = lmm.hooked, []
    width = lmm.n_heads * hooked.d_head
    for layer in range(lmm.n_layers):
        bias = hooked.projection("blocks.{layer}.attn.hook_result", layer, width).bias
        found.append(torch.zeros(()) if bias is None else bias.detach().float().cpu() @ direction)
    return torch.stack(found)


def _refuse_mixed(lmm: LMM) -> None:
    """Refuse models in which some layers have no heads, because a logit sums over all layers."""
    layers = lmm.layers_with(LogitAttribution.hook)
    if len(layers) < lmm.n_layers:
        raise CapabilityError(
            f"{lmm.name}: only layers {layers} have heads with a pattern, and a logit is a sum "
            "over all layers, so it cannot be split by head; probes.Projection splits it by layer"
        )


def _refuse_other_sums(lmm: LMM, whole: Tensor, parts: Tensor) -> None:
    slack = 0.02 * float(whole.abs().max()) + 1e-4
    if float((whole - parts).abs().max()) > slack:
        raise CapabilityError(
            f"{lmm.name}: what attention adds to the residual stream is not the sum of its heads, "
            "so a logit cannot be split by head (a norm stands behind attention, or an edit "
            "changed hook_attn_out)"
        )
