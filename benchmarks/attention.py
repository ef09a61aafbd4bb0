"""What edits and probes cost, as ratios to plain SDPA in the same run.

`python benchmarks/attention.py` measures every setting; `--json FILE` keeps the figures and
`--write` puts them into the docs. A run that was stopped goes on where it was: every setting that
is done waits in `FILE.part`, which becomes `FILE` at the end; delete it to begin anew. `--quick`
measures a small decoder at 600 tokens in under a minute. A key of the figures is
`<feature>@<tokens>`, with `/gqa` behind it where four key heads serve sixteen query heads, or
`<feature>@toy` and `<feature>@small` for whole answers of the toy and, where `vsink small install`
was run, of the small LMM; `<feature>@<tokens>x<batch>/growth` for a prefill of batches.

`--device cuda` measures a decoder of a 7B's size instead (32 layers of width 4,096, bf16, random
weights; 32 key heads, or 8 with `/gqa`): seconds of the clock, memory that torch allocates, and how
often the host waits for the GPU. A few minutes; its figures stay out of the page of the docs.

Variants are interleaved, each round in the reverse order of the last; `ratio` is the median over
rounds of CPU-time ratios. `aa` is plain SDPA entered twice: what is smaller than its distance from
1 is noise. `peak_ratio` compares the peak memory of forked processes that ran one variant each.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from measure import Figures, Variants, measure
from models import (
    GRIDS,
    IMAGES,
    SEVEN_B,
    Size,
    build,
    describing,
    many_images,
    narrow,
    prompt,
)
from page import report, write
from variants import answers, attention, growth

import vsink_interp as vi
from vsink_interp.small.packages import installed
from vsink_interp.storage.files import write_text

LAYERS = {600: 8, 1200: 4, 3000: 4}
ROUNDS = {600: 7, 1200: 5, 3000: 3}
QUICK = Size(layers=2)
BATCHES = (1, 4, 16)


@dataclass(frozen=True)
class Setting:
    """What makes the variants of one model and prompt, and the mark that their figures carry."""

    mark: str
    rounds: int
    variants: Callable[[], Variants]


def settings(tokens: list[int]) -> Iterator[Setting]:
    """What a full run measures: decoders, growth over batches and prompts, whole answers."""
    for n in tokens:
        yield Setting(f"{n}", ROUNDS[n], partial(decoder, n, Size(layers=LAYERS[n])))
        grouped = Size(layers=LAYERS[n], kv_heads=4)
        yield Setting(f"{n}/gqa", ROUNDS[n], partial(decoder, n, grouped))
    yield Setting("toy", 41, lambda: answers(*describing(vi.LMM.toy()), tokens=17))
    if installed():
        yield Setting("small", 15, lambda: answers(*describing(vi.LMM.small()), tokens=24))
    for n, batch in product(IMAGES, BATCHES):
        rounds = min(7, max(3, 100_000 // (n * batch)))
        yield Setting(f"{n}x{batch}/growth", rounds, partial(grown, n, batch))


def on_gpu(tokens: list[int]) -> Iterator[Setting]:
    """A 7B's shapes."""
    for n in tokens:
        grouped = replace(SEVEN_B, kv_heads=8)
        yield Setting(f"{n}/cuda", 5, partial(decoder, n, SEVEN_B, "cuda"))
        yield Setting(f"{n}/gqa/cuda", 5, partial(decoder, n, grouped, "cuda"))


def decoder(tokens: int, size: Size, device: str = "cpu") -> Variants:
    """Prefill and decode steps of one decoder."""
    lmm = build(tokens, size, device=device)
    return attention(lmm, prompt(lmm, tokens))


def grown(tokens: int, batch: int) -> Variants:
    """A prefill of a batch of long prompts."""
    lmm = narrow()
    return growth(lmm, many_images(lmm, IMAGES[tokens], batch))


def measured(chosen: Iterable[Setting], kept: Path | None) -> Figures:
    """The figures of these settings; those that a run before this one left are not made again."""
    part = kept and kept.with_name(f"{kept.name}.part")
    figures: Figures = json.loads(part.read_text()) if part and part.exists() else {}
    if figures:
        sys.stderr.write(f"going on with {part}; delete it to begin anew\n")
    for setting in chosen:
        if any(name.endswith(f"@{setting.mark}") for name in figures):
            continue
        found = measure(setting.variants(), setting.rounds, setting.mark)
        figures |= {f"{name}@{setting.mark}": figure for name, figure in found.items()}
        if part:
            write_text(part, json.dumps(figures, indent=1) + "\n")
    if part and kept:
        part.replace(kept)
    return figures


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="600 tokens, 2 layers, few rounds")
    parser.add_argument(
        "--json", type=Path, help="where to keep the figures; FILE.part until all are there"
    )
    parser.add_argument("--write", action="store_true", help="put the figures of --json into docs/")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, nargs="*", default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    if options.device == "cuda" and (options.write or not torch.cuda.is_available()):
        parser.error("--device cuda wants a GPU, and keeps its figures with --json, not --write")
    torch.set_num_threads(options.threads)
    every = on_gpu if options.device == "cuda" else settings
    quick = Setting("600", 2, partial(decoder, 600, QUICK, options.device))
    chosen = [quick] if options.quick else every(options.tokens)
    figures = measured(chosen, options.json)
    sys.stdout.write(report(figures))
    if options.write:
        write(figures)


if __name__ == "__main__":
    main()
