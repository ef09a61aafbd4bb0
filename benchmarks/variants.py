"""What is compared: ours, plain SDPA, eager attention, and the published ways to do VAR."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from baselines import head_loop, patched, vectorised
from measure import Variant, Variants, now, timed

import vsink_interp as vi

STEPS = 16
VAR = vi.VAR(p=0.6, rho=0.5)
CUT = vi.Knockout("image -> query generated")
HALF = vi.Knockout("image -> query generated", "4:")
MASS = vi.probes.SegmentMass()
ALL_ROWS = vi.probes.SegmentMass(rows="all")
OURS = {
    "empty-plan": None,
    "var-prefill": VAR,
    "knockout-prefill": CUT,
    "probe-text-rows": MASS,
    "probe-all-rows": ALL_ROWS,
}
OURS_DECODE = {
    "empty-decode": None,
    "var-decode": VAR,
    "knockout-decode": CUT,
    "probe-decode": MASS,
    "dropped-decode": vi.DropKeys("image"),
}
ANSWERS = {"empty": None, "var": VAR, "knockout": CUT, "probe": MASS, "three": HALF | VAR | MASS}
OTHERS = {"eager": None, "eager-var": vectorised, "released-var": head_loop}


class Clock:
    """A streamer that notes the time of every token, so that decoding is timed by itself."""

    def __init__(self, device: str) -> None:
        self.times: list[float] = []
        self.device = device

    def put(self, _value: torch.Tensor) -> None:
        """Called by `generate` with the prompt, then with every token."""
        self.times.append(now(self.device))

    def end(self) -> None:
        """Called by `generate` at the end."""

    @property
    def decode(self) -> float:
        """Seconds from the first generated token to the last."""
        return self.times[-1] - self.times[1]


@contextmanager
def attention_of(lmm: vi.LMM, name: str) -> Iterator[None]:
    """The decoder with another of transformers' own attention functions."""
    config = lmm.hooked.layers[0].self_attn.config
    before, config._attn_implementation = config._attn_implementation, name
    try:
        yield
    finally:
        config._attn_implementation = before


def attention(lmm: vi.LMM, encoding: vi.Encoding) -> Variants:
    """A prefill, and decode steps by themselves, in every way."""
    plain = partial(_forward, lmm, encoding)
    decode = partial(_generate, lmm, encoding)
    runs: dict[str, Callable[[], float]] = {"plain": plain, "plain-decode": decode}
    runs |= {name: partial(_ours, lmm, encoding, graph) for name, graph in OURS.items()}
    runs |= {
        name: partial(_ours_decode, lmm, encoding, graph) for name, graph in OURS_DECODE.items()
    }
    for name, edit in OTHERS.items():
        runs[name] = partial(_inside, plain, lmm, encoding, edit)
        runs[f"{name}-decode"] = partial(_inside, decode, lmm, encoding, edit)
    return {
        name: Variant(run, "plain-decode" if name.endswith("decode") else "plain", lmm.device.type)
        for name, run in runs.items()
    }


def answers(lmm: vi.LMM, encoding: vi.Encoding, tokens: int) -> Variants:
    """Whole answers of so many tokens, image and all."""

    def plain() -> float:
        return timed(lambda: _decode_plain(lmm, encoding, None, tokens))

    def ours(graph: vi.EditGraph | None) -> float:
        return timed(lambda: lmm.generate(encoding, graph=graph, max_new_tokens=tokens))

    found = {"plain": Variant(plain, "plain")}
    return found | {
        f"{name}-answer": Variant(partial(ours, graph), "plain") for name, graph in ANSWERS.items()
    }


def growth(lmm: vi.LMM, encoding: vi.Encoding) -> Variants:
    """A prefill under the graphs whose costs should grow as attention's do."""
    graphs = {"probe": MASS, "knockout": vi.Knockout("image -> query"), "var": VAR}
    found = {"plain": Variant(partial(_forward, lmm, encoding), "plain")}
    return found | {
        f"{name}-growth": Variant(partial(_ours, lmm, encoding, graph), "plain")
        for name, graph in graphs.items()
    }


def _inputs(lmm: vi.LMM, encoding: vi.Encoding) -> dict[str, Any]:
    """Where the model is, and in its precision."""
    moved = {name: value.to(lmm.device) for name, value in encoding.inputs.items()}
    return moved | {"pixel_values": moved["pixel_values"].to(lmm.dtype)}


def _forward(lmm: vi.LMM, encoding: vi.Encoding) -> float:
    return timed(lambda: lmm.hf_model(**_inputs(lmm, encoding)), lmm.device.type)


def _generate(lmm: vi.LMM, encoding: vi.Encoding) -> float:
    clock = Clock(lmm.device.type)
    _decode_plain(lmm, encoding, clock)
    return clock.decode


def _decode_plain(
    lmm: vi.LMM, encoding: vi.Encoding, clock: Clock | None, tokens: int = STEPS + 1
) -> None:
    # `Run` holds the logits, so plain generation keeps them too.
    lmm.hf_model.generate(
        **_inputs(lmm, encoding),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        streamer=clock,
        output_logits=True,
        return_dict_in_generate=True,
    )


def _ours(lmm: vi.LMM, encoding: vi.Encoding, graph: Any) -> float:
    return timed(lambda: lmm.run(encoding, graph=graph), lmm.device.type)


def _ours_decode(lmm: vi.LMM, encoding: vi.Encoding, graph: Any) -> float:
    clock = Clock(lmm.device.type)
    lmm.generate(encoding, graph=graph, max_new_tokens=STEPS + 1, streamer=clock)
    return clock.decode


def _inside(
    run: Callable[[], float], lmm: vi.LMM, encoding: vi.Encoding, edit: Callable[..., Any] | None
) -> float:
    where: AbstractContextManager = (
        patched(lmm, encoding, edit) if edit else attention_of(lmm, "eager")
    )
    with where:
        return run()
