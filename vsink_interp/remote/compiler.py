"""Compile a plan into plain data that a server can run without this package."""

import inspect
from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from ..engine.hooked_model import HookedModel
from ..engine.masks import prompt_mask
from ..engine.row_program import PATTERN, ROT_K, ROT_Q, SCORES, Z, row_tiles
from ..engine.run_state import Numbered, RunState, overlap
from ..errors import CapabilityError
from ..families import Tap
from ..graph import Edit, HookPoint, find_hook
from ..graph.plan import RESID_PRE
from .node_program import Pass, Programs

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

    - `call`: the name of the call of attention in the source of each layer's attention.
    - `n_new`: the number of tokens to generate; None for one forward pass.
    """

    def __init__(
        self, hooked: HookedModel, run_state: RunState, call: str, n_new: int | None
    ) -> None:
        self.hooked = hooked
        self.run_state = run_state
        self.call = call
        self.n_new = n_new
        self.programs = Programs(hooked, run_state, n_new)
        self.inputs: Mapping[str, Any] = {}
        self.exact = False

    def job(self, inputs: Mapping[str, Any], generate: Mapping[str, Any] | None) -> dict[str, Any]:
        """The job: everything that the server needs for this run, except the kernels."""
        self.inputs = inputs
        places = self._places(generates=generate is not None)
        if generate is not None:
            self._refuse_short(places)
        stops = [self._stop(place) for place in places]
        real = self.run_state.masks.layout.mask("all")
        rows = self.n_new or self.programs.prefill.n_rows
        self.programs.sizes["logits"] = 4 * len(real) * rows * self.hooked.config.vocab_size
        return {
            "inputs": dict(inputs),
            "generate": None if generate is None else dict(generate),
            "prompt": self.programs.prefill.n_rows,
            "padding": None if bool(real.all()) else real,
            "exact": self.exact,
            "stops": stops,
            "programs": self.programs.made,
            "constants": self.programs.constants.tensors,
            "origins": list(self.programs.origins),
            "unembed": {
                "norm": self.hooked.family.tap("ln_final.hook_out", None).module,
                "head": self.hooked.family.tap(LOGITS.template, None).module,
                "scale": self.hooked.family.logits_scale,
                "cap": self.hooked.softcap,
            },
        }

    def _places(self, *, generates: bool) -> list[HookPlace]:
        plan = self.run_state.plan
        places = {
            (ROT_Q.template, layer)
            if self.hooked.computes(find_hook(template), layer)
            else (template, layer)
            for template, layer in plan.places
        }
        places |= {(RESID_PRE, layer) for layer in plan.phi_layers}
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
                f"{self.run_state.plan.graph!r} cannot run remotely: layers {odd} share the keys "
                "of earlier ones, and to generate they may compute only the last row of a prompt, "
                "which a server's transformers decides; use run, other layers, or run it locally"
            )

    def _holds(self, template: str, layer: int | None) -> bool:
        """Whether an edit changes the residual beside a norm: the rest of the layer has to know."""
        nodes = self.run_state.plan.at(template, layer)
        return template in (RESID_PRE, RESID_MID) and any(isinstance(n, Edit) for _, n in nodes)

    def _stop(self, place: HookPlace) -> dict[str, Any]:
        template, layer = place
        if self.hooked.computes(find_hook(template), layer):
            assert layer is not None  # noqa: S101 (they lie in layers)
            return self._attention(layer)
        return self._tap(find_hook(template), layer)

    def _tap(self, point: HookPoint, layer: int | None) -> dict[str, Any]:
        tap = self._safe(point, layer)
        nodes = self.run_state.plan.at(point.template, layer)
        sinks = self.run_state.sinks
        plan, enters = self.run_state.plan, point.template == RESID_PRE
        phi, new_phi = (
            enters and layer in known for known in (plan.phi_layers, plan.new_phi_layers)
        )
        programs = self.programs
        decodes = programs.decode is not None and "decode" in point.phases
        # Where the prompt's sink values are all that is wanted, decode steps need not stop.
        decodes = decodes and (bool(nodes) or new_phi or not enters)
        return {
            "kind": "tap",
            "path": tap.module,
            "side": tap.side,
            "heads": self.hooked.n_heads[tap.heads] if tap.heads else None,
            "shape": held_as(tap),
            "scale": tap.scale,
            "layer": layer,
            "dims": list(sinks.dims) if phi and sinks else [],
            "new_phi": new_phi,
            "logits": point is LOGITS,
            "settles": point.template in (RESID_MID, RESID_POST),
            "prefill": programs.calls(nodes, point, layer, self._head_pass(point)),
            "decode": programs.calls(nodes, point, layer, programs.decode) if decodes else None,
        }

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

    def _head_pass(self, point: HookPoint) -> Pass:
        # Generation computes the logits of the last prompt row alone.
        one = point is LOGITS and self.n_new is not None and keeps_last_logits(self.hooked)
        return Pass(self.programs.prefill.n_keys, 1) if one else self.programs.prefill

    def _attention(self, layer: int) -> dict[str, Any]:
        path = f"{self.hooked.family.layers}.{layer}.self_attn"
        mask = prompt_mask(self.hooked, layer, self.inputs, self.run_state.masks.layout)
        self.exact |= mask is not None
        scaling, decode = self.hooked.layers[layer].self_attn.scaling, self.programs.decode
        return {
            "kind": "attention",
            "path": path,
            "layer": layer,
            "call": self.call,
            "scaling": float(scaling),
            "scale": self.hooked.residual_scale(layer),
            "window": self.hooked.family.window(layer),
            "learned": layer in self.hooked.learned_sinks,
            "prefill": self._explicit(layer, self.programs.prefill, mask),
            "decode": self._explicit(layer, decode, None) if decode else None,
        }

    def _explicit(self, layer: int, kind: Pass, mask: Tensor | None) -> dict[str, Any]:
        at = {
            p: self.run_state.plan.at(p.template, layer) if self.hooked.computes(p, layer) else ()
            for p in (ROT_Q, ROT_K, SCORES, PATTERN, Z)
        }
        return {
            "explicit": any(at[point] for point in (ROT_Q, ROT_K, SCORES, PATTERN)),
            "rot_q": self.programs.calls(at[ROT_Q], ROT_Q, layer, kind),
            "rot_k": self.programs.calls(at[ROT_K], ROT_K, layer, kind),
            "tiles": self._tiles(layer, at, kind, mask),
            "z": self.programs.calls(at[Z], Z, layer, kind),
        }

    def _tiles(
        self, layer: int, at: Mapping[HookPoint, Numbered], kind: Pass, mask: Tensor | None
    ) -> list[dict[str, Any]]:
        """The tiles of rows that are computed explicitly; all rows if queries or keys change."""
        rows = kind.rows(kind.n_keys[0])
        numbered = (*at[SCORES], *at[PATTERN])
        needed, edited = self.run_state.spans(numbered, rows)
        if any(isinstance(node, Edit) for _, node in (*at[ROT_Q], *at[ROT_K])):
            needed = edited = rows
        per_row = self.run_state.masks.layout.batch * self.hooked.n_heads["head"] * rows.stop
        whole = any(node.whole for _, node in numbered)
        return [
            {
                **self._tile(layer, at, kind, tile, rows, overlap(tile, edited)),
                "mask": None if mask is None else self._constant(mask, tile, rows),
            }
            for tile in row_tiles(needed, per_row, whole)
            if tile
        ]

    def _constant(self, mask: Tensor, tile: range, rows: range) -> int:
        """The index of the mask of a tile of rows among the constants."""
        start, stop = tile.start - rows.start, tile.stop - rows.start
        return self.programs.constants.add(mask[..., start:stop, :])

    def _tile(
        self,
        layer: int,
        at: Mapping[HookPoint, Numbered],
        kind: Pass,
        tile: range,
        rows: range,
        keep: range,
    ) -> dict[str, Any]:
        start, stop = tile.start - rows.start, tile.stop - rows.start
        return {
            "start": start,
            "stop": stop,
            "keep": [keep.start - rows.start, keep.stop - rows.start] if keep else None,
            "values": any(node.needs_values for _, node in (*at[SCORES], *at[PATTERN])),
            "totals": any(node.needs_total for _, node in at[PATTERN]),
            "scores": self.programs.calls(at[SCORES], SCORES, layer, kind, (start, stop)),
            "pattern": self.programs.calls(at[PATTERN], PATTERN, layer, kind, (start, stop)),
        }


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
