"""Interleaved timing and peak memory of variants that do the same job."""

import os
import resource
import statistics
import sys
import time
import warnings
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

    - `run`: does it once, and returns the seconds that count, as `now` counts them.
    - `base`: the name of the variant that it is compared with.
    - `device`: where it runs, `"cpu"` or `"cuda"`.
    """

    run: Callable[[], float]
    base: str
    device: str = "cpu"


Variants = dict[str, Variant]


def now(device: str = "cpu") -> float:
    """Seconds of this process's CPU; of the clock, once everything is done, for a GPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(run: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call, as `now` counts them."""
    start = now(device)
    with torch.no_grad():
        run()
    return now(device) - start


def measure(variants: Variants, rounds: int, what: str) -> Figures:
    """Ratios of every variant to its base; the base itself is entered twice and left out."""
    # Memory first: a process that has run nothing yet forks one child per variant.
    peaks = {name: _peak(variant) for name, variant in variants.items()}
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
        | ({} if variant.device == "cpu" else {"waits": waits(variant.run)})
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
        "base_seconds": statistics.median(base),
    }


def _peak(variant: Variant) -> float:
    if variant.device == "cpu":
        return peak(variant.run)
    torch.cuda.reset_peak_memory_stats()
    variant.run()
    return torch.cuda.max_memory_allocated() / 2**20


def waits(run: Callable[[], object]) -> int:
    """How often the host waits for the GPU in one call (`torch.cuda.set_sync_debug_mode`).

    What torch does not watch, a copy to the host by another library, is not counted.
    """
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in seen)


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
