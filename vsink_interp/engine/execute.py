"""The one interpreter: a plan, run in one nnsight trace."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..errors import CapabilityError
from ..families import Tap
from ..graph import Node
from ..hooks import HookPoint, find_hook
from ..past import Past
from ..plan import Plan
from ..results import Recorded
from ..sinkdims import SinkDims
from ..site import TokenMasks
from ..tokens import TokenLayout
from .attention import AttentionBinding
from .cache import cached
from .progress import Progress
from .second import Beside, SecondPass, beside_the_first
from .taps import read, write
from .wrapped import Wrapped

Driver = Callable[..., None]
RESID_PRE = "blocks.{layer}.hook_resid_pre"


@final
@dataclass(frozen=True, eq=False)
class Outcome:
    """What the model returned, and what the probes recorded."""

    output: Any
    records: Mapping[str, Recorded]


@final
@dataclass(frozen=True)
class _Stop:
    """A place where the trace waits for the model: a hook point that is a module."""

    point: HookPoint
    layer: int | None
    tap: Tap
    nodes: tuple[tuple[int, Node], ...]
    phi: bool
    new_phi: bool
    decodes: bool


def _stops(wrapped: Wrapped, plan: Plan, *, generates: bool) -> list[_Stop]:
    places = {(hook, at) for hook, at in plan.places if not wrapped.computes(find_hook(hook), at)}
    places |= {(RESID_PRE, layer) for layer in plan.phi_layers}
    early = wrapped.encodes_first(generates=generates)

    def order(place: tuple[str, int | None]) -> tuple[bool, Any]:
        return not (early and place[0].startswith("vision")), wrapped.family.forward_order(*place)

    return [_stop(wrapped, plan, *place) for place in sorted(places, key=order)]


def _stop(wrapped: Wrapped, plan: Plan, template: str, layer: int | None) -> _Stop:
    point, nodes, enters = find_hook(template), plan.at(template, layer), template == RESID_PRE
    new_phi = enters and layer in plan.new_phi_layers
    return _Stop(
        point,
        layer,
        wrapped.family.tap(template, layer),
        nodes,
        phi=enters and layer in plan.phi_layers,
        new_phi=new_phi,
        # Where the prompt's sink values are all that is wanted, decode steps need not stop.
        decodes=(bool(nodes) or new_phi) and "decode" in point.phases,
    )


def execute(
    wrapped: Wrapped,
    plan: Plan,
    inputs: Mapping[str, Tensor],
    layout: TokenLayout,
    sinks: SinkDims | None,
    generate: Mapping[str, Any] | None,
    beside: Mapping[int, Beside] | None = None,
    past: Past | None = None,
) -> Outcome:
    """Run a plan on encoded inputs.

    **Arguments:**

    - `layout`: every token that the run may come to hold, on the CPU.
    - `generate`: what `model.generate` is given; None runs one forward pass.
    - `beside`: what the second passes run on, by the number of the edit that compares with one.
    - `past`: what was read before; `inputs` and `layout` cover it too.

    **Raises:** `CapabilityError` if the model passes by a hook point of the plan; `LayoutError` if
    edits together leave a row nothing to attend to.
    """
    progress = Progress(plan, TokenMasks(layout, wrapped.device), sinks)
    passes = {n: SecondPass(wrapped, it, sinks) for n, it in (beside or {}).items()}
    binding = AttentionBinding(wrapped, progress)
    given = {**(generate or {}), **cached(wrapped, progress, inputs, past)}
    box: list[Any] = []

    def driver(**model_inputs: Any) -> None:
        with binding.armed(), beside_the_first(wrapped, passes):
            if generate is None:
                box.append(wrapped.hf_model(**model_inputs))
            else:
                box.append(wrapped.hf_model.generate(**model_inputs, **given))
        # The block waits for a step that never comes; ending it here is not an error.
        wrapped.nnsight.interleaver.cancel()

    stops = _stops(wrapped, plan, generates=generate is not None)
    reached: list[_Stop] = []
    # Edits in place are noticed by version counters, which tensors of inference mode lack.
    with torch.inference_mode(False), torch.no_grad():
        plain = {name: x.clone() if x.is_inference() else x for name, x in inputs.items()}
        _trace(wrapped, stops, progress, passes, driver, plain, reached)
    if missed := [stop.point.at(stop.layer) for stop in stops[len(reached) :]]:
        raise CapabilityError(
            f"{type(wrapped.hf_model).__name__} did not come to {', '.join(missed)} in the order "
            "of its hook points, so nothing acted there; ask for them in a run of their own"
        )
    progress.refuse_blind()
    progress.refuse_lost()
    return Outcome(box[0], progress.records())


def _trace(
    wrapped: Wrapped,
    stops: list[_Stop],
    progress: Progress,
    passes: Mapping[int, SecondPass],
    driver: Driver,
    inputs: dict[str, Any],
    reached: list[_Stop],
) -> None:
    """Run the model, act at each stop, and note those of the first pass that were reached."""
    length = inputs["input_ids"].shape[1]
    with wrapped.nnsight.trace(**inputs, fn=driver) as tracer:
        for step in _steps(tracer, stops):
            for stop in stops:
                if step == 0 or stop.decodes:
                    _act(wrapped, stop, progress, passes, length + step)
                if step == 0:
                    reached.append(stop)


def _steps(tracer: Any, stops: list[_Stop]) -> Iterator[int]:
    if any(stop.decodes for stop in stops):
        yield from tracer.iter[:]
    elif stops:
        yield 0


def _act(
    wrapped: Wrapped,
    stop: _Stop,
    progress: Progress,
    passes: Mapping[int, SecondPass],
    last: int,
) -> None:
    envoy = wrapped.envoy(stop.tap.module)
    value = old = read(stop.tap, envoy, wrapped.n_heads)
    # Counted from the end: generation computes logits of the last prompt row alone.
    rows = range(last - value.shape[1], last)
    before = value._version
    for number, node in stop.nodes:
        extras: dict[str, Any] = {"second": passes[number].logits} if number in passes else {}
        if node.needs_unembed:
            extras["unembed"] = wrapped.unembed
        value = progress.visit(number, node, value, stop.point, stop.layer, rows, rows, extras)
    if value is not old or value._version != before:
        write(stop.tap, envoy, old, value)
    prefill = rows.start < progress.masks.layout.prompt_length
    if stop.layer is not None and stop.phi and (prefill or stop.new_phi):
        progress.see_resid(stop.layer, value)
