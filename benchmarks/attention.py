"""What edits and probes cost, as ratios to plain SDPA in the same run.

`python benchmarks/attention.py` measures all sizes and prints a table, `--json FILE` keeps it;
`--quick` measures a small model at the smallest size in about a minute.

Variants are interleaved, each round in the reverse order of the last; a ratio is the median over
rounds of CPU-time ratios. `aa` is plain SDPA entered twice: what is smaller than its distance from
1 is noise. `peak_ratio` compares the peak memory of fresh processes.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from baselines import head_loop, patched, vectorised
from models import GRIDS, Size, build, prompt
from tqdm import tqdm

import vsink_interp as vi

LAYERS = {600: 8, 1200: 4, 3000: 4}
QUICK_LAYERS = 2
STEPS = 16
MASS = vi.probes.SegmentMass()
ALL_ROWS = vi.probes.SegmentMass(rows="all")
VAR = vi.VAR(p=0.6, rho=0.5)
CUT = vi.Knockout("image -> query generated")
OURS = {
    "empty-plan": None,
    "var-prefill": VAR,
    "knockout-prefill": CUT,
    "probe-text-rows": MASS,
    "probe-all-rows": ALL_ROWS,
}
OURS_DECODE = {
    "empty-plan-decode": None,
    "var-decode": VAR,
    "knockout-decode": CUT,
    "dropped-decode": vi.DropKeys("image"),
}
BASELINES = {"eager": None, "eager-var": vectorised, "released-var": head_loop}


class Clock:
    """A streamer that notes the CPU time of every token, so that decoding is timed by itself."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _value: torch.Tensor) -> None:
        """Called by `generate` with the prompt, then with every token."""
        self.times.append(time.process_time())

    def end(self) -> None:
        """Called by `generate` at the end."""

    @property
    def decode(self) -> float:
        """Seconds from the first generated token to the last."""
        return self.times[-1] - self.times[1]


@contextmanager
def attention_of(lmm: vi.LMM, name: str):
    """The decoder with another of transformers' own attention functions."""
    config = lmm.wrapped.layers[0].self_attn.config
    before, config._attn_implementation = config._attn_implementation, name
    try:
        yield
    finally:
        config._attn_implementation = before


def variants(lmm: vi.LMM, encoding: vi.Encoding) -> dict[str, Callable[[], float]]:
    """Every variant as a function that runs it once and returns its CPU seconds."""
    inputs = dict(encoding.inputs)

    def plain() -> float:
        return timed(lambda: lmm.hf_model(**inputs))

    def plain_decode() -> float:
        clock = Clock()
        lmm.hf_model.generate(
            **inputs,
            max_new_tokens=STEPS + 1,
            do_sample=False,
            pad_token_id=0,
            streamer=clock,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return clock.decode

    def ours(graph) -> Callable[[], float]:
        return lambda: timed(lambda: lmm.run(encoding, graph=graph))

    def ours_decode(graph) -> Callable[[], float]:
        def run() -> float:
            clock = Clock()
            lmm.generate(encoding, graph=graph, max_new_tokens=STEPS + 1, streamer=clock)
            return clock.decode

        return run

    def baseline(edit, measure: Callable[[], float]) -> Callable[[], float]:
        def run() -> float:
            where = patched(lmm, encoding, edit) if edit else attention_of(lmm, "eager")
            with where:
                return measure()

        return run

    found = {"plain": plain, "aa": plain, "plain-decode": plain_decode, "aa-decode": plain_decode}
    found |= {name: ours(graph) for name, graph in OURS.items()}
    found |= {name: ours_decode(graph) for name, graph in OURS_DECODE.items()}
    found |= {name: baseline(edit, plain) for name, edit in BASELINES.items()}
    return found | {
        f"{name}-decode": baseline(edit, plain_decode) for name, edit in BASELINES.items()
    }


def timed(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    with torch.no_grad():
        run()
    return time.process_time() - start


def measure(tokens: int, rounds: int, layers: int) -> dict[str, dict[str, float]]:
    """The ratio of every variant to plain SDPA at one prompt length."""
    lmm = build(tokens, Size(layers=layers))
    found = variants(lmm, prompt(lmm, tokens))
    times: dict[str, list[float]] = {name: [] for name in found}
    for i in tqdm(range(rounds + 1), desc=f"{tokens} tokens", file=sys.stderr):
        for name in list(found) if i % 2 else reversed(found):
            seconds = found[name]()
            if i:  # the first round warms up
                times[name].append(seconds)
    return {name: summary(name, times) for name in found if not name.startswith(("plain", "aa"))}


def summary(name: str, times: dict[str, list[float]]) -> dict[str, float]:
    """Median, least and largest ratio of a variant, with the ratio of plain SDPA to itself."""
    phase = "-decode" if name.endswith("-decode") else ""
    base = times[f"plain{phase}"]
    ratios = [a / b for a, b in zip(times[name], base, strict=True)]
    twice = [a / b for a, b in zip(times[f"aa{phase}"], base, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "largest": max(ratios),
        "aa": statistics.median(twice),
    }


def peak(name: str, tokens: int) -> float:
    """Peak memory in MB of one variant in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--tokens", str(tokens)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def one(name: str, tokens: int) -> None:
    """Run one variant and print the peak memory of this process in MB."""
    lmm = build(tokens, Size(layers=LAYERS[tokens]))
    variants(lmm, prompt(lmm, tokens))[name]()
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="600 tokens, few rounds, no peaks")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, nargs="*", default=list(GRIDS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        one(options.one, options.tokens[0])
        return
    figures: dict[str, dict[str, float]] = {}
    for tokens in [600] if options.quick else options.tokens:
        if options.quick:
            found = measure(tokens, 2, QUICK_LAYERS)
        else:
            found = measure(tokens, options.rounds, LAYERS[tokens])
        base = 0.0 if options.quick else peak("plain", tokens)
        for name, figure in found.items():
            if base and not name.endswith("-decode"):
                figure["peak_ratio"] = peak(name, tokens) / base
            figures[f"{name}@{tokens}"] = figure
    report(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def report(figures: dict[str, dict[str, float]]) -> None:
    """Print the figures as a table."""
    for name, f in figures.items():
        peaks = f"  peak {f['peak_ratio']:.2f}" if "peak_ratio" in f else ""
        sys.stdout.write(
            f"{name:28} {f['ratio']:5.2f} [{f['least']:.2f}-{f['largest']:.2f}]"
            f"  aa {f['aa']:.2f}{peaks}\n"
        )


if __name__ == "__main__":
    main()
