"""`execute`: run a plan in one nnsight trace."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..errors import CapabilityError
from ..families import Tap
from ..graph import HookPoint, Node, TokenMasks, find_hook
from ..graph.plan import RESID_PRE, Plan
from ..results import Recorded
from ..sinks import SinkDims
from ..tokens import TokenLayout
from .attention import AttentionBinding
from .cache import cached
from .cached_prefix import CachedPrefix
from .contrast_pass import Beside, ContrastInputs, SecondPass, beside_the_first
from .gradients import refuse_gradients
from .hooked_model import HookedModel
from .module_hooks import read, refuse_replaced, sum_beside, write
from .rope import forget_longest
from .run_state import RunState

Driver = Callable[..., None]


@final
@dataclass(frozen=True, eq=False)
class Outcome:
    """The model's output and the probes' records."""

    output: Any
    records: Mapping[str, Recorded]


@final
@dataclass(frozen=True)
class _Stop:
    """A point where the trace waits for the model: a hook point that is a module."""

    point: HookPoint
    layer: int | None
    tap: Tap
    nodes: tuple[tuple[int, Node], ...]
    phi: bool
    decodes: bool


def _stops(hooked: HookedModel, plan: Plan, *, generates: bool) -> list[_Stop]:
    places = {(hook, at) for hook, at in plan.places if not hooked.computes(find_hook(hook), at)}

    def order(place: tuple[str, int | None]) -> tuple[bool, Any]:
        early = hooked.comes_early(place[0], generates=generates)
        return not early, hooked.family.forward_order(*place)

    return [_stop(hooked, plan, *place) for place in sorted(places, key=order)]


def _stop(hooked: HookedModel, plan: Plan, template: str, layer: int | None) -> _Stop:
    point, tap = find_hook(template), hooked.family.tap(template, layer)
    refuse_replaced(hooked, tap.module)
    return _Stop(
        point,
        layer,
        tap,
        plan.at(template, layer),
        phi=template == RESID_PRE and layer in plan.phi_layers,
        decodes="decode" in point.phases,
    )


def execute(
    hooked: HookedModel,
    plan: Plan,
    inputs: Mapping[str, Tensor],
    layout: TokenLayout,
    sinks: SinkDims | None,
    generate: Mapping[str, Any] | None,
    beside: Beside | None = None,
    cached_prefix: CachedPrefix | None = None,
) -> Outcome:
    """Run a plan on encoded inputs.

    **Arguments:**

    - `layout`: all tokens that the run may reach, on the CPU.
    - `generate`: arguments for `model.generate`; None runs one forward pass.
    - `beside`: makes the inputs of second passes, by the index of their `Contrast` in the graph.
    - `cached_prefix`: a prefix read earlier; `inputs` and `layout` include it.

    Runs of one model take turns, whichever threads they come from.

    **Raises:** `CapabilityError` if the model skips a hook point of the plan, and inside another
    run of the same model; `LayoutError` if edits together leave a row no key to attend to.
    """
    seconds = beside() if beside else {}
    with hooked.turns.run():
        return _execute(hooked, plan, inputs, layout, sinks, generate, seconds, cached_prefix)


def _execute(
    hooked: HookedModel,
    plan: Plan,
    inputs: Mapping[str, Tensor],
    layout: TokenLayout,
    sinks: SinkDims | None,
    generate: Mapping[str, Any] | None,
    beside: Mapping[int, ContrastInputs],
    cached_prefix: CachedPrefix | None,
) -> Outcome:
    refuse_gradients(plan, generates=generate is not None)
    asks = any(node.needs_gradient for node in plan.graph)
    run_state = RunState(plan, TokenMasks(layout, hooked.device), sinks)
    passes = {n: SecondPass(hooked, it, sinks) for n, it in beside.items()}
    binding = AttentionBinding(hooked, run_state)
    given = {**(generate or {}), **cached(hooked, run_state, inputs, cached_prefix)}
    forget_longest(hooked.hf_model.get_submodule(hooked.family.layers.rpartition(".")[0]))
    box: list[Any] = []

    def driver() -> None:
        with binding.armed(), beside_the_first(hooked, passes):
            if generate is None:
                box.append(hooked.hf_model(**hooked.here(plain)))
            else:
                box.append(hooked.hf_model.generate(**hooked.here(plain), **given))

    stops = _stops(hooked, plan, generates=generate is not None)
    reached: list[_Stop] = []
    # Edits in place are noticed by version counters, which tensors of inference mode lack.
    with torch.inference_mode(False), torch.set_grad_enabled(asks):
        plain = {name: x.clone() if x.is_inference() else x for name, x in inputs.items()}
        with interruptible(), sound(run_state):
            if stops or hooked.nnsight._edits:
                _trace(hooked, stops, run_state, passes, driver, plain, reached)
            else:  # every module would ask a trace in which nobody waits
                driver()
    if missed := [stop.point.at(stop.layer) for stop in stops[len(reached) :]]:
        raise CapabilityError(
            f"{type(hooked.hf_model).__name__} did not reach {', '.join(missed)} in the order "
            "of its hook points, so nothing acted there; ask for them in a run of their own"
        )
    if asks:
        run_state.take_gradients(box[0].logits)
        box[0].logits = box[0].logits.detach()
    run_state.refuse_blind()
    run_state.refuse_lost()
    return Outcome(box[0], run_state.records())


@contextmanager
def sound(run_state: RunState) -> Generator[None]:
    """Refuse what a user's edit returned, also where the run failed of it, as sampling does."""
    try:
        yield
    except Exception as error:
        run_state.ranges.refuse(error)
        raise
    run_state.ranges.refuse()


@contextmanager
def interruptible() -> Generator[None]:
    """Raise an interrupt as what it is.

    nnsight rebuilds the traceback of what is raised in a trace, and fails where a frame of it has
    no line, as one may that an interrupt met.
    """
    try:
        yield
    except TypeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def _trace(
    hooked: HookedModel,
    stops: list[_Stop],
    run_state: RunState,
    passes: Mapping[int, SecondPass],
    driver: Driver,
    inputs: dict[str, Any],
    reached: list[_Stop],
) -> None:
    """Run the model, act at each stop, and note which stops of the first pass were reached."""
    length = inputs["input_ids"].shape[1]

    def traced(**_: Any) -> None:
        driver()
        # The layer waits for a step that never comes; ending it here is not an error.
        hooked.nnsight.interleaver.cancel()

    with hooked.nnsight.trace(**inputs, fn=traced) as tracer:
        for step in _steps(tracer, stops):
            for stop in stops:
                if step == 0 or stop.decodes:
                    _act(hooked, stop, run_state, passes, length + step)
                if step == 0:
                    reached.append(stop)


def _steps(tracer: Any, stops: list[_Stop]) -> Iterator[int]:
    if any(stop.decodes for stop in stops):
        yield from tracer.iter[:]
    elif stops:
        yield 0


def _act(
    hooked: HookedModel,
    stop: _Stop,
    run_state: RunState,
    passes: Mapping[int, SecondPass],
    last: int,
) -> None:
    envoy = hooked.envoy(stop.tap.module)
    value = old = read(stop.tap, envoy, hooked, run_state.asked)
    watches = any(node.needs_gradient for _, node in stop.nodes)
    beside = sum_beside(stop.tap, envoy, value, run_state.asked, always=watches)
    # Counted from the end: generation computes logits of the last prompt row alone.
    rows = range(last - value.shape[1], last)
    before = value._version
    for number, node in stop.nodes:
        extras: dict[str, Any] = {"second": passes[number].logits} if number in passes else {}
        if node.needs_unembed:
            extras["unembed"] = hooked.unembed
        value = run_state.visit(number, node, value, stop.point, stop.layer, rows, rows, extras)
    if value is not old or value._version != before:
        write(stop.tap, envoy, old, value, beside)
    if stop.layer is not None and stop.phi:
        run_state.enter(stop.layer, value)
