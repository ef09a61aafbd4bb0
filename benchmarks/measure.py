"""Interleaved timing and peak memory of variants that do the same job."""

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import torch
from tqdm import tqdm

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Variant:
    """One way to do a job.

    **Attributes:**

    - `run`: does it once, and returns the CPU seconds that count.
    - `base`: the name of the variant that it is compared with.
    """

    run: Callable[[], float]
    base: str


Variants = dict[str, Variant]


def timed(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    with torch.no_grad():
        run()
    return time.process_time() - start


def measure(variants: Variants, rounds: int, what: str) -> Figures:
    """Ratios of every variant to its base; the base itself is entered twice and left out."""
    # Memory first: a process that has run nothing yet forks one child per variant.
    peaks = {name: peak(variant.run) for name, variant in variants.items()}
    bases = {variant.base for variant in variants.values()}
    entered = variants | {f"aa {base}": variants[base] for base in bases}
    times: dict[str, list[float]] = {name: [] for name in entered}
    for i in tqdm(range(rounds + 1), desc=what, file=sys.stderr):
        for name in list(entered) if i % 2 else reversed(entered):
            seconds = entered[name].run()
            if i:  # the first round warms up
                times[name].append(seconds)
    return {
        name: _figure(times[name], times[variant.base], times[f"aa {variant.base}"])
        | {"peak_ratio": peaks[name] / peaks[variant.base]}
        for name, variant in variants.items()
        if name not in bases
    }


def _figure(own: list[float], base: list[float], again: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(own, base, strict=True)]
    twice = [a / b for a, b in zip(again, base, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "largest": max(ratios),
        "aa": statistics.median(twice),
        "aa_least": min(twice),
        "aa_largest": max(twice),
    }


def peak(run: Callable[[], object]) -> float:
    """Peak memory of one call in MB, in a forked process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, str(_most_memory(run)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    told = os.read(reader, 64)
    os.close(reader)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a variant failed; its message stands above")
    return float(told)


def _most_memory(run: Callable[[], object]) -> float:
    """The most memory, in MB, that this process holds in a call; files mapped into it left out.

    Sampled every millisecond: the kernel's own maximum counts mapped libraries, which it may drop.
    """
    seen, done = [_held()], Event()

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(_held())

    watcher = Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(seen)


def _held() -> float:
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * resource.getpagesize() / 2**20
