"""The causal check: does the first token draw attention because of its sink dimensions?

Setting them to zero is not enough of an answer. RMSNorm divides by the norm that they made up, so
what is left of the token grows many times over, and its next largest coordinates do the same work:
in SmolLM2-135M the first token then gets more attention, not less. So several interventions are
compared, with controls that should change nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from ..edits import Fn
from ..graph import HookContext, Site
from ..probes.row_probe import RowProbe

_CANDIDATES: Final = 32
"""The random dimensions are drawn among as many of the first token's largest."""
_FALLS: Final = 0.5
_STAYS: Final = 0.8


@final
@dataclass(frozen=True)
class CausalCheck:
    """The first token's share of attention, after interventions on its residual stream.

    Each acts on the first token alone, where it enters every layer from the first one examined on.

    **Attributes:**

    - `before`: without intervention.
    - `zeroed`: sink dimensions set to zero; the norm collapses, and the rest is amplified.
    - `ordinary`: sink dimensions set to the median of the other tokens.
    - `rescaled`: the same, and the token scaled to the median norm of the others, so that nothing
        else is amplified.
    - `random`: a control, as `ordinary` with as many other large dimensions, drawn at random.
    - `norm_only`: a control, the token scaled to the median norm of the others with its direction
        kept.
    """

    before: float
    zeroed: float
    ordinary: float
    rescaled: float
    random: float
    norm_only: float

    @property
    def passes(self) -> tuple[str, ...]:
        """Which of `zeroed`, `ordinary` and `rescaled` halve the attention while their control does
        not take a fifth of it.
        """
        controls = {"zeroed": self.random, "ordinary": self.random, "rescaled": self.norm_only}
        return tuple(
            name
            for name, control in controls.items()
            if getattr(self, name) <= _FALLS * self.before and control >= _STAYS * self.before
        )

    def __str__(self) -> str:
        parts = [
            f"{self.before:.2f} before",
            f"{self.zeroed:.2f} with the sink dimensions at zero",
            f"{self.ordinary:.2f} at ordinary values",
            f"{self.rescaled:.2f} at ordinary values and norm",
            f"controls {self.random:.2f} (random large dimensions) and {self.norm_only:.2f} (norm "
            "alone)",
        ]
        passed = ", ".join(self.passes) or "none"
        return f"{', '.join(parts)}; checks passed: {passed}{self._why()}"

    def _why(self) -> str:
        if "zeroed" in self.passes or self.zeroed < self.before:
            return ""
        return " (without them RMSNorm amplifies the token's other large dimensions)"


def causal_check(
    run: Callable[..., Any],
    dims: tuple[int, ...],
    spectrum: Tensor,
    examined: tuple[int, ...],
    layers: tuple[int, ...],
) -> CausalCheck:
    """Carry out every intervention.

    **Arguments:**

    - `run`: one forward pass under a graph.
    - `spectrum`: how large each dimension of the first token is.
    - `examined`: the layers whose attention is measured.
    - `layers`: the layers in which the first token is changed.
    """
    mass = FirstTokenMass(layers=examined)
    others = _random_dims(spectrum, dims)
    edits = {
        "zeroed": _changed(dims, zero=True),
        "ordinary": _changed(dims),
        "rescaled": _changed(dims, rescale=True),
        "random": _changed(others),
        "norm_only": _changed((), rescale=True),
    }
    graphs = {"before": mass} | {
        name: Fn("hook_resid_pre", edit, layers=layers) | mass for name, edit in edits.items()
    }
    shares = {name: float(run(graph)[mass].values.mean()) for name, graph in graphs.items()}
    return CausalCheck(**shares)


def _random_dims(spectrum: Tensor, dims: tuple[int, ...]) -> tuple[int, ...]:
    """As many of the largest other dimensions, drawn at random, the same every time."""
    size = spectrum.clone()
    size[list(dims)] = -1
    large = size.topk(min(_CANDIDATES, len(size) - len(dims))).indices
    order = torch.randperm(len(large), generator=torch.Generator().manual_seed(0))
    return tuple(large[order[: len(dims)]].tolist())


def _changed(
    dims: tuple[int, ...], *, zero: bool = False, rescale: bool = False
) -> Callable[[Tensor, HookContext], Tensor]:
    def change(resid: Tensor, hook: HookContext) -> Tensor:  # noqa: ARG001
        made = resid.clone()
        rest, chosen = resid[:, 1:], list(dims)
        made[:, 0, chosen] = 0 if zero else rest[..., chosen].median(1).values
        if rescale:
            norm = rest.norm(dim=-1).median(1, keepdim=True).values
            made[:, 0] *= norm / made[:, 0].norm(dim=-1, keepdim=True)
        return made

    return change


@final
@dataclass(frozen=True)
class FirstTokenMass(RowProbe):
    """The share of each row's attention that the first token gets: `[layer batch head query]`.

    By position, because some families write no BOS.
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "head", "query")

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        del site
        return value[..., 0]
