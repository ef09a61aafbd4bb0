"""Figures 2 and 7: the residual stream of sinks, by dimension."""

from collections.abc import Iterator

from ...experiments import Cases, spectrum
from ...model import LMM
from ...model.progress import silent
from ..entry import Entry, Outcome, Published, Setup
from ..measurements import Measurements, Row
from ..over_cases import OverCases


def _rows(lmm: LMM, cases: Cases, layers: tuple[int, ...]) -> Iterator[Row]:
    for case, (image, prompt) in enumerate(zip(cases.images, cases.prompts, strict=True)):
        for layer in layers:
            found = spectrum(lmm, image, prompt, layer=layer, tick=silent)
            for token, values in zip(found.tokens, found.values, strict=True):
                for dim, value in enumerate(values.tolist()):
                    sink = int(dim in found.dims)
                    yield {
                        "case": case, "layer": layer, "token": token, "dim": dim, "sink": sink,
                        "value": value,
                    }  # fmt: skip


def at_the_middle(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Three kinds of token entering the middle layer."""
    del setup
    return _rows(lmm, cases, (lmm.n_layers // 2,))


def along_the_depth(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """The same at a quarter, a half and three quarters of the depth."""
    del setup
    depths = (lmm.n_layers // 4, lmm.n_layers // 2, 3 * lmm.n_layers // 4)
    return _rows(lmm, cases, tuple(dict.fromkeys(depths)))


def _same_dims(found: Measurements) -> Outcome:
    """Visual sinks are largest where the first token is, and more like it than like the others."""
    peaks = {
        token: max(found.where(token=token, sink=1).summary(["dim"]), key=lambda s: s.mean)
        for token in found.labels("token")
    }
    told = "; ".join(f"{t}: {one.mean:.1f} at {one.group['dim']}" for t, one in peaks.items())
    if "visual sink" not in peaks:
        return Outcome(None, f"no visual sink in these images; {told}")
    first, sink, other = (
        peaks[name] for name in ("first token", "visual sink", "other image token")
    )
    same = first.group["dim"] == sink.group["dim"]
    return Outcome(same and abs(first.mean - sink.mean) < sink.mean - other.mean, told)


_PEAKS = (
    Published("LLaVA-1.5-7B, first token", "33 at 1415, 54 at 2533", "read off figure 2"),
    Published("LLaVA-1.5-13B, first token", "38 at 2100, 61 at 4743", "read off figure 7"),
    Published("Qwen2-VL-7B, first token", "45 at 458, 32 at 2570", "read off figure 7"),
    Published("InternVL2-8B, first token", "63 at 3584", "read off figure 7"),
)
FIG2 = Entry(
    "A.fig2",
    "residual stream of the first token, a visual sink and another image token, by dimension",
    "visual sinks have their large values in the sink dimensions of the first token",
    measure=OverCases(at_the_middle, quick=2, full=20, at_once=1),
    outcome=_same_dims,
    figure="spectrum",
    axes=("dim", "token"),
    unit="|x| / rms(x)",
    published=_PEAKS[:1],
)
FIG7 = Entry(
    "A.fig7",
    "residual stream of sinks by dimension, along the depth; run it once for each model",
    "visual sinks have their large values in the sink dimensions of the first token",
    measure=OverCases(along_the_depth, quick=2, full=20, at_once=1),
    outcome=_same_dims,
    figure="spectrum",
    axes=("dim", "token"),
    unit="|x| / rms(x)",
    published=_PEAKS,
)
