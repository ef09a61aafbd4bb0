"""The self-check: which hook points of a model can be read, and where overwriting has an effect.

Every hook point is tried on the model itself. Reading must not change a bit of the logits and must
give the axes of the hook table; overwriting must change the logits, in the prefill and in a single
decode step; writing the value that was read must not, and the parts of a layer must add up
(`identities`). Hook points that fail are no longer offered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, final

import torch
from torch import Tensor

from ..edits import Fn
from ..errors import CapabilityError
from ..families import Family
from ..families.tiny import build, like
from ..graph import HOOKS, EditGraph, HookPoint, find_hook
from ..probes import Activation
from .identities import (
    PROMPT,
    asked_as,
    changed_by_rewriting,
    noise,
    offered,
    parts_that_miss,
)

Test = Callable[[dict[str, Any]], bool]
"""A test of a hook point, given the arguments that say at which layer."""


@final
@dataclass(frozen=True)
class Capability:
    """What one hook point can do in one model.

    **Attributes:**

    - `hook`: its full name, with `{layer}` for the layer.
    - `read`: whether reading it works and changes nothing.
    - `write`: whether overwriting it changes the logits.
    - `decode`: whether overwriting it in a single decode step changes that step's logits; None for
        hook points that occur only in the prefill.
    - `layer`: the layer in which it was tried; None outside the layers.
    - `n_layers`: the number of layers that offer it.
    - `reason`: why it is not offered, or what failed; empty if everything works.
    """

    hook: str
    read: bool = False
    write: bool = False
    decode: bool | None = False
    layer: int | None = None
    n_layers: int = 0
    reason: str = ""

    @property
    def works(self) -> bool:
        """Whether it can be read and written in every pass in which it occurs."""
        return self.read and self.write and self.decode is not False


@final
@dataclass(frozen=True)
class Capabilities:
    """The results of the self-check, one per hook point; prints as a table.

    **Attributes:**

    - `model`, `family`: the class of the model and the name of its family.
    - `inferred`: whether the family was inferred from the model.
    - `transformers`: the version of transformers.
    - `exact`: whether a run without edits gives the logits of plain transformers, bit by bit.
    - `hooks`: one entry per hook point, in forward order.
    """

    model: str
    family: str
    inferred: bool
    transformers: str
    exact: bool
    hooks: tuple[Capability, ...]

    @property
    def passed(self) -> bool:
        """Whether every hook point that is offered works."""
        return self.exact and all(one.works or not one.n_layers for one in self.hooks)

    @property
    def failed(self) -> dict[str, str]:
        """The hook points that were offered and failed, and how."""
        return {one.hook: one.reason for one in self.hooks if one.n_layers and not one.works}

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON; overwriting is tried in the prefill, and again in decode."""
        hooks = [asdict(one) | {"prefill": one.write} for one in self.hooks]
        return asdict(self) | {"hooks": hooks, "passed": self.passed}

    def __str__(self) -> str:
        about = f"{self.model}, family {self.family}"
        exact = "equal" if self.exact else "DIFFERENT"
        lines = [
            f"{about}, transformers {self.transformers}; logits without edits: {exact}",
            f"{'hook point':46} read write decode layers",
        ]
        marks = {True: "yes", False: "no", None: "-"}
        for one in self.hooks:
            cells = (
                f"{marks[one.read]:4} {marks[one.write]:5} {marks[one.decode]:6} {one.n_layers:<6}"
            )
            lines.append(f"{one.hook:46} {cells} {one.reason}".rstrip())
        return "\n".join(lines)


def check(lmm: Any) -> Capabilities:
    """Try every hook point of an `LMM` on a small image and prompt.

    Takes about two forward passes and one decode step per hook point: reading, and writing what
    was read, are tried at all those of layers together, and at each alone only if that fails.
    Others are tried alone: a module outside the layers may run twice, and be read right only among
    others.
    """
    encoding = lmm.encode(noise(), PROMPT)
    with torch.no_grad():
        plain = lmm.hf_model(**encoding.inputs).logits.cpu()
    answer = lmm.generate(encoding, max_new_tokens=2).logits
    family = lmm.hooked.family
    if family.inferred:
        refuse_ahead(lmm, encoding)
    of_layers = [point for point in offered(lmm, encoding) if point.stack is not None]
    fine = _Fine(
        _parts(lmm, encoding),
        read=_all_read(lmm, of_layers, encoding, plain),
        kept=not changed_by_rewriting(lmm, of_layers, encoding, plain),
    )
    return Capabilities(
        type(lmm.hf_model).__name__,
        family.name,
        family.inferred,
        version("transformers"),
        torch.equal(lmm.run(encoding).logits, plain),
        tuple(_try(lmm, point, encoding, plain, answer, fine) for point in HOOKS),
    )


@final
@dataclass(frozen=True)
class _Fine:
    """What trials of the hook points of layers together have shown: which do not add up, and
    whether all were right."""

    missing: Mapping[str, str]
    read: bool
    kept: bool


def _all_read(lmm: Any, points: Sequence[HookPoint], encoding: Any, plain: Tensor) -> bool:
    """Whether hook points can be read in one run; if not, each is tried by itself."""
    probes = [
        Activation(asked_as(point), **place)
        for point in points
        for place in _one_of_each_kind(lmm, point, _layers(lmm, point))
    ]
    try:
        run = lmm.run(encoding, graph=EditGraph(*probes))
        return all(_reads_right(lmm, run, probe, plain) for probe in probes)
    except Exception:  # noqa: BLE001 (the hook point that cannot be read fails by itself)
        return False


def refuse_ahead(lmm: Any, encoding: Any) -> None:
    """Refuse a model whose rows attend to more than its masks told when it was asked for them.

    **Raises:** `CapabilityError` naming the layer.
    """
    point = find_hook("attn.hook_pattern")
    if lmm.hooked.refusal(point):
        return
    places = _one_of_each_kind(lmm, point, lmm.hooked.offering(point))
    probe = Activation(point.name, tuple(place["layers"] for place in places))
    record = lmm.run(encoding, graph=probe)[probe]
    allowed = encoding.layout.visible(range(encoding.layout.length)).cpu()
    ahead = (record.values > 0).any(2) & ~allowed
    if ahead.any():
        layer = record.labels("layer")[int(ahead.flatten(1).any(1).nonzero()[0])]
        raise CapabilityError(
            f"in layer {layer} of {type(lmm.hf_model).__name__} rows attend to tokens that they do "
            f"not see by its masks (sight {lmm.hooked.family.sight!r}), so that flows would mean "
            "other things than they say. A family that says what rows see is one file: see "
            "docs/adding-a-family.md"
        )


def _parts(lmm: Any, encoding: Any) -> Mapping[str, str]:
    try:
        return parts_that_miss(lmm, encoding)
    except Exception:  # noqa: BLE001 (the hook point that cannot be read fails by itself)
        return {}


def failed_in_small(make: Callable[..., Any], family: Family, config: Any) -> Mapping[str, str]:
    """The hook points that fail on a tiny random model of a model's classes, and how.

    Takes about a second, once per process. Nothing is known, and nothing fails, where the family
    has no tiny model with this vision side.

    **Arguments:**

    - `make`: makes an `LMM` of a model and a processor.
    - `config`: the configuration of the model in question.

    **Raises:** `CapabilityError` if a run without edits does not give the logits of transformers.
    """
    attention = "eager" if config._attn_implementation == "eager" else "sdpa"
    text, vision = (
        type(part) for part in (config.get_text_config(), getattr(config, "vision_config", None))
    )
    return _failed_in_small(make, family, text, vision, attention)


@cache
def _failed_in_small(
    make: Callable[..., Any], family: Family, text: type, vision: type, attention: str
) -> Mapping[str, str]:
    if family.tiny is None:
        return {}
    config, processor = family.tiny()
    config = like(config, text, vision)
    if config is None:
        return {}
    found = check(make(build(config, attention), processor, family=family, check=False))
    if not found.exact:
        raise CapabilityError(
            f"with transformers {found.transformers} a run of {found.model} without edits does not "
            "give the logits of transformers, so that no edit could be trusted; take a version "
            "that vsink_interp supports, or pass check=False to look into it"
        )
    return found.failed


def _try(
    lmm: Any, point: HookPoint, encoding: Any, plain: Tensor, answer: Tensor, fine: _Fine
) -> Capability:
    if why := lmm.hooked.refusal(point):
        return Capability(point.template, reason=why)
    layers = _layers(lmm, point)
    tests = _tests(lmm, point, encoding, plain, answer)
    together = point.stack is not None
    if together and fine.read:
        tests["read"] = lambda _: True
    found, reasons = _outcomes(tests, _one_of_each_kind(lmm, point, layers))
    if missing := fine.missing.get(point.template):
        found["read"] = False
        reasons.insert(0, missing)
    kept = together and fine.kept
    if found["write"] and not kept and (why := changed_by_rewriting(lmm, [point], encoding, plain)):
        found["write"] = False
        reasons.append(why)
    return Capability(
        point.template, layer=layers[0], n_layers=len(layers), **found, reason="; ".join(reasons)
    )


def _layers(lmm: Any, point: HookPoint) -> tuple[int | None, ...]:
    return (None,) if point.stack is None else lmm.hooked.offering(point)


def _tests(
    lmm: Any, point: HookPoint, encoding: Any, plain: Tensor, answer: Tensor
) -> dict[str, Test]:
    """The tests of a hook point, by the field of `Capability` that they fill."""
    hook = asked_as(point)

    def acts(steps: str, at: dict[str, Any]) -> bool:
        edit = Fn(hook, _overwrite(steps), **at)
        if steps == "decode":
            changed = lmm.generate(encoding, graph=edit, max_new_tokens=2).logits
            return not torch.equal(changed[:, 1], answer[:, 1])
        return not torch.equal(lmm.run(encoding, graph=edit).logits, plain)

    tests: dict[str, Test] = {
        "read": lambda at: _reads(lmm, Activation(hook, **at), encoding, plain),
        "write": lambda at: acts("all", at),
    }
    if "decode" in point.phases:
        tests["decode"] = lambda at: acts("decode", at)
    return tests


def _outcomes(
    tests: dict[str, Test], places: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Which tests pass at all of these layers, and why the others fail."""
    found: dict[str, Any] = {"decode": None}
    reasons = []
    for name, test in tests.items():
        try:
            found[name] = all(map(test, places))
        except Exception as error:  # noqa: BLE001 (whatever it raises, the hook point fails)
            found[name] = False
            reasons.append(f"{name}: {str(error).splitlines()[0][:160]}")
        else:
            reasons += [] if found[name] else [f"{name} has no effect or changes the model"]
    return found, reasons


def _one_of_each_kind(
    lmm: Any, point: HookPoint, fine: tuple[int | None, ...]
) -> list[dict[str, Any]]:
    """The first layer of every kind of attention that offers a hook point, as arguments."""
    if point.stack is None:
        return [{}]
    kinds = lmm.hooked.kinds if point.stack == "blocks" else [""] * len(fine)
    firsts = {kinds[at]: at for at in reversed(fine) if at is not None}
    return [{"layers": at} for at in sorted(firsts.values())]


def _overwrite(steps: str) -> Callable[..., Tensor]:
    """A hook function that writes other values, everywhere or in decode steps alone."""

    def shift(value: Tensor, hook: Any) -> Tensor:
        site = hook.site
        if steps == "decode" and site.n_keys <= site.layout.prompt_length:
            return value
        # Keys stay where they are: a sliding window has let some go, and the future is hidden.
        return 0.5 * value if site.hook.axes[-1] == "key" else value.roll(1, -1)

    return shift


def _reads(lmm: Any, probe: Activation, encoding: Any, plain: Tensor) -> bool:
    return _reads_right(lmm, lmm.run(encoding, graph=probe), probe, plain)


def _reads_right(lmm: Any, run: Any, probe: Activation, plain: Tensor) -> bool:
    record = run[probe]
    values = record.values.float()
    if probe.hook.endswith("hook_pattern"):
        sums = values.sum(-1)
        least = 0.0 if lmm.hooked.learned_sinks else 0.99
        if sums.min() < least or sums.max() > 1.01:
            return False
    tokens = run.layout.length
    sizes = {"batch": 1, "query": tokens, "key": tokens, "d_model": lmm.d_model}
    sizes["head"] = lmm.hooked.n_heads["head"]
    if "kv_head" in record.axes:
        sizes["kv_head"] = _kv_heads(lmm, record.labels("layer")[0])
    axes = values.ndim == len(record.axes) and all(
        sizes.get(axis, size) == size for axis, size in zip(record.axes, values.shape, strict=True)
    )
    return axes and torch.equal(run.logits, plain)


def _kv_heads(lmm: Any, layer: int) -> int:
    """The number of key heads of a layer: by its weights, for layers may differ (Gemma 4)."""
    attention = getattr(lmm.hooked.layers[layer], "self_attn", None)
    width = getattr(attention, "head_dim", None)
    made = getattr(getattr(attention, "k_proj", None), "out_features", None)
    return made // width if made and width else lmm.hooked.n_heads["kv_head"]
