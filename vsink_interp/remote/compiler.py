"""Compile a plan into plain data that a server can run without this package."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Bool
from torch import Tensor

from ..engine.hooked_model import HookedModel
from ..engine.masks import prompt_mask
from ..engine.row_program import PATTERN, ROT_K, ROT_Q, SCORES, Z, row_tiles
from ..engine.run_state import Numbered, overlap
from ..errors import CapabilityError
from ..families import Tap
from ..graph import Edit, HookPoint, find_hook
from ..graph.plan import RESID_PRE
from .node_program import Pass, Programs, Store, in_vision

FIRST_NORM = "input_layernorm"
RESID_POST = "blocks.{layer}.hook_resid_post"
RESID_MID = "blocks.{layer}.hook_resid_mid"
LOGITS = find_hook("unembed.hook_out")
HookPlace = tuple[str, int | None]
SHAPES = ("", "b q (h d)", "b q h d", "b h q d", "q d")
"""The axes in which modules may hold values, as in `Tap.held`; `runtime.shown` converts them."""


@final
class Compiler:
    """Compiles the plan of one run into a job: stops, programs and constants.

    **Arguments:**

    - `programs`: of the run's own pass, and of those beside it.
    - `call`: the name of the call of attention in the source of each layer's attention.
    - `n_new`: the number of tokens to generate; None for one forward pass.
    """

    def __init__(
        self, hooked: HookedModel, programs: Sequence[Programs], call: str, n_new: int | None
    ) -> None:
        self.hooked = hooked
        self.programs = programs
        self.call = call
        self.n_new = n_new
        self.store: Store = programs[0].store
        self.plans = [each.run_state.plan for each in programs]
        self.inputs: Mapping[str, Any] = {}
        self.exact = False

    def job(self, inputs: Mapping[str, Any], generate: Mapping[str, Any] | None) -> dict[str, Any]:
        """The job: everything that the server needs for this run, except the kernels."""
        self.inputs = inputs
        places = self._places(generates=generate is not None)
        if generate is not None:
            self._refuse_short(places)
        stops = [self._stop(place) for place in places]
        first = self.programs[0]
        real = torch.cat([self._real(each) for each in self.programs])
        rows = self.n_new or first.prefill.n_given
        batch = first.run_state.masks.layout.batch
        self.store.sizes["logits"] = 4 * batch * rows * self.hooked.config.vocab_size
        return {
            "inputs": dict(inputs),
            "generate": None if generate is None else dict(generate),
            "prompt": first.prefill.n_given,
            "passes": len(self.programs),
            "shift": first.shift,
            "padding": None if bool(real.all()) else real,
            "exact": self.exact,
            "stops": stops,
            "targets": first.targets(),
            "programs": self.store.made,
            "constants": self.store.constants.tensors,
            "origins": list(self.store.origins),
            "unembed": {
                "norm": self.hooked.family.tap("ln_final.hook_out", None).module,
                "head": self.hooked.family.tap(LOGITS.template, None).module,
                "scale": self.hooked.family.logits_scale,
                "cap": self.hooked.softcap,
            },
        }

    @staticmethod
    def _real(programs: Programs) -> Bool[Tensor, "batch token"]:
        """The tokens of a pass that are no padding."""
        own = programs.run_state.masks.layout.mask("all")
        return torch.nn.functional.pad(own, (programs.shift, 0))

    def _places(self, *, generates: bool) -> list[HookPlace]:
        places = {
            (ROT_Q.template, layer)
            if self.hooked.computes(find_hook(template), layer)
            else (template, layer)
            for plan in self.plans
            for template, layer in plan.places
        }
        places |= {(RESID_PRE, layer) for plan in self.plans for layer in plan.phi_layers}
        held = {(template, layer) for template, layer in places if self._holds(template, layer)}
        places |= {(later, layer) for _, layer in held for later in (RESID_MID, RESID_POST)}
        places.add((LOGITS.template, None))
        in_order = self.hooked.family.forward_order

        def order(place: HookPlace) -> tuple[bool, Any]:
            early = self.hooked.comes_early(place[0], generates=generates)
            return not early, in_order(*place)

        return sorted(places, key=order)

    def _refuse_short(self, places: list[HookPlace]) -> None:
        """Refuse layers in which generation may compute fewer rows of a prompt than programs have.

        **Raises:** `CapabilityError` naming the layers.
        """
        n_layers = self.hooked.n_layers
        first = n_layers - (getattr(self.hooked.config, "num_kv_shared_layers", None) or 0)
        short = {at for name, at in places if at is not None and find_hook(name).stack == "blocks"}
        if odd := sorted(layer for layer in short if layer >= first):
            raise CapabilityError(
                f"{self.plans[0].graph!r} cannot run remotely: layers {odd} share the keys "
                "of earlier ones, and to generate they may compute only the last row of a prompt, "
                "which a server's transformers decides; use run, other layers, or run it locally"
            )

    def _nodes(self, point: HookPoint, layer: int | None) -> Numbered:
        """The nodes of all passes at a hook point."""
        return tuple(each for plan in self.plans for each in plan.at(point.template, layer))

    def _holds(self, template: str, layer: int | None) -> bool:
        """Whether an edit changes the residual beside a norm: the rest of the layer has to know."""
        nodes = self._nodes(find_hook(template), layer)
        writes = any(isinstance(node, Edit) or node.needs_gradient for _, node in nodes)
        return template in (RESID_PRE, RESID_MID) and writes

    def _stop(self, place: HookPlace) -> dict[str, Any]:
        template, layer = place
        if self.hooked.computes(find_hook(template), layer):
            assert layer is not None  # noqa: S101 (they lie in layers)
            return self._attention(layer)
        return self._tap(find_hook(template), layer)

    def _tap(self, point: HookPoint, layer: int | None) -> dict[str, Any]:
        tap = self._safe(point, layer)
        nodes = self._nodes(point, layer)
        sinks = self.programs[0].run_state.sinks
        enters = point.template == RESID_PRE
        phi = enters and any(layer in plan.phi_layers for plan in self.plans)
        new_phi = enters and any(layer in plan.new_phi_layers for plan in self.plans)
        decodes = self.programs[0].decode is not None and "decode" in point.phases
        # Where the prompt's sink values are all that is wanted, decode steps need not stop.
        decodes = decodes and (bool(nodes) or new_phi or not enters)
        held = held_as(tap)
        return {
            "kind": "tap",
            "path": tap.module,
            "side": tap.side,
            "heads": self.hooked.n_heads[tap.heads] if tap.heads else None,
            "shape": held,
            "scale": tap.scale,
            "layer": layer,
            # A list of patches is one sample: those of all images lie behind each other.
            "samples": 1 if held == "q d" and in_vision(point) else 0,
            "dims": list(sinks.dims) if phi and sinks else [],
            "new_phi": new_phi,
            "logits": point is LOGITS,
            "settles": point.template in (RESID_MID, RESID_POST),
            "prefill": self._calls(point, layer, decode=False),
            "decode": self._calls(point, layer, decode=True) if decodes else None,
        }

    def _calls(
        self, point: HookPoint, layer: int | None, *, decode: bool, tile: range | None = None
    ) -> list[dict[str, Any]]:
        """The calls of all passes at a hook point."""
        kinds = [(each, self._kind(each, point, decode=decode)) for each in self.programs]
        return [call for each, kind in kinds for call in each.calls(point, layer, kind, tile)]

    def _kind(self, programs: Programs, point: HookPoint, *, decode: bool) -> Pass | None:
        if decode:
            return programs.decode
        # Generation computes the logits of the last prompt row alone.
        one = point is LOGITS and self.n_new is not None and keeps_last_logits(self.hooked)
        return Pass(programs.prefill.n_keys, 1, 1) if one else programs.prefill

    def _safe(self, point: HookPoint, layer: int | None) -> Tap:
        """The tap of a hook point; for `hook_resid_pre`, the input of the layer's first norm.

        The layer's own inputs hold the cache, and reading them in a sandbox would write back a
        copy.
        """
        if point.template != RESID_PRE:
            return self.hooked.family.tap(point.template, layer)
        assert layer is not None  # noqa: S101 (it lies in layers)
        if not hasattr(self.hooked.layers[layer], FIRST_NORM):
            raise CapabilityError(
                f"{point.at(layer)} cannot be read remotely: this family's layer has no "
                f"{FIRST_NORM}, and the layer's own inputs hold the cache; use hook_resid_post of "
                "the layer before"
            )
        return Tap(f"{self.hooked.family.layers}.{layer}.{FIRST_NORM}", "residual input")

    def _attention(self, layer: int) -> dict[str, Any]:
        path = f"{self.hooked.family.layers}.{layer}.self_attn"
        layout = self.programs[0].run_state.masks.layout
        mask = prompt_mask(self.hooked, layer, self.inputs, layout)
        self.exact |= mask is not None
        scaling, decodes = self.hooked.layers[layer].self_attn.scaling, self.programs[0].decode
        return {
            "kind": "attention",
            "path": path,
            "layer": layer,
            "call": self.call,
            "scaling": float(scaling),
            "scale": self.hooked.residual_scale(layer),
            "window": self.hooked.family.window(layer),
            "learned": layer in self.hooked.learned_sinks,
            "prefill": self._explicit(layer, mask, decode=False),
            "decode": self._explicit(layer, None, decode=True) if decodes else None,
        }

    def _explicit(self, layer: int, mask: Tensor | None, *, decode: bool) -> dict[str, Any]:
        inside = [p for p in (ROT_Q, ROT_K, SCORES, PATTERN, Z) if self.hooked.computes(p, layer)]
        at = {p: self._nodes(p, layer) for p in inside}
        calls = {p: self._calls(p, layer, decode=decode) for p in (ROT_Q, ROT_K, Z) if p in at}
        return {
            "explicit": any(at.get(point) for point in (ROT_Q, ROT_K, SCORES, PATTERN)),
            "rot_q": calls.get(ROT_Q, []),
            "rot_k": calls.get(ROT_K, []),
            "tiles": self._tiles(layer, at, mask, decode=decode),
            "z": calls.get(Z, []),
        }

    def _tiles(
        self, layer: int, at: Mapping[HookPoint, Numbered], mask: Tensor | None, *, decode: bool
    ) -> list[dict[str, Any]]:
        """The tiles of rows that are computed explicitly; all rows if queries or keys change."""
        kind = self._kind(self.programs[0], SCORES, decode=decode)
        assert kind is not None  # noqa: S101 (the caller has looked)
        rows = range(kind.n_given)
        numbered = (*at.get(SCORES, ()), *at.get(PATTERN, ()))
        needed, edited = self._spans(layer, at, decode=decode)
        turned = (*at.get(ROT_Q, ()), *at.get(ROT_K, ()))
        if any(isinstance(node, Edit) or node.needs_gradient for _, node in turned):
            needed = edited = rows
        batch = len(self.programs) * self.programs[0].run_state.masks.layout.batch
        per_row = batch * self.hooked.n_heads["head"] * (kind.n_keys[0] + self.programs[0].shift)
        whole = any(node.whole for _, node in numbered)
        return [
            {
                **self._tile(layer, at, tile, overlap(tile, edited), decode=decode),
                "mask": None if mask is None else self._constant(mask, tile),
            }
            for tile in row_tiles(needed, per_row, whole)
            if tile
        ]

    def _spans(
        self, layer: int, at: Mapping[HookPoint, Numbered], *, decode: bool
    ) -> tuple[range, range]:
        """The rows of the model that nodes of some pass need explicitly, and that they change."""
        needed: list[range] = []
        edited: list[range] = []
        for programs, plan in zip(self.programs, self.plans, strict=True):
            kind = self._kind(programs, SCORES, decode=decode)
            assert kind is not None  # noqa: S101 (the caller has looked)
            own = [n for p in (SCORES, PATTERN) if p in at for n in plan.at(p.template, layer)]
            some, changed = programs.run_state.spans(tuple(own), kind.rows(kind.n_keys[0]))
            if any(node.needs_gradient for _, node in own):
                changed = some  # it flows through what is computed from them alone
            for spread, span in zip((needed, edited), (some, changed), strict=True):
                if span:
                    spread.append(range(span.start - kind.ahead, span.stop - kind.ahead))
        return _hull(needed), _hull(edited)

    def _constant(self, mask: Tensor, tile: range) -> int:
        """The index of the mask of a tile of rows among the constants."""
        return self.store.constants.add(mask[..., tile.start : tile.stop, :])

    def _tile(
        self,
        layer: int,
        at: Mapping[HookPoint, Numbered],
        tile: range,
        keep: range,
        *,
        decode: bool,
    ) -> dict[str, Any]:
        scores, pattern = (at.get(point, ()) for point in (SCORES, PATTERN))
        calls = {
            point: self._calls(point, layer, decode=decode, tile=tile) if nodes else []
            for point, nodes in ((SCORES, scores), (PATTERN, pattern))
        }
        return {
            "start": tile.start,
            "stop": tile.stop,
            "keep": [keep.start, keep.stop] if keep else None,
            "values": any(node.needs_values for _, node in (*scores, *pattern)),
            "totals": any(node.needs_total for _, node in pattern),
            "scores": calls[SCORES],
            "pattern": calls[PATTERN],
        }


def _hull(spans: Sequence[range]) -> range:
    """The smallest span that holds all of these."""
    if not spans:
        return range(0)
    return range(min(span.start for span in spans), max(span.stop for span in spans))


def held_as(tap: Tap) -> str:
    """The axes in which a module holds a value.

    **Raises:** `CapabilityError` for axes that the server code does not know.
    """
    if tap.held not in SHAPES:
        raise CapabilityError(
            f"{tap.module} cannot be reached remotely: it holds its value as {tap.held!r}, and a "
            f"server knows {', '.join(map(repr, SHAPES))}"
        )
    return tap.held


def keeps_last_logits(hooked: HookedModel) -> bool:
    """Whether generation computes logits for the last prompt row only."""
    return "logits_to_keep" in inspect.signature(hooked.hf_model.forward).parameters
