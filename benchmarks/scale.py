"""What many samples cost beside their answers, into docs/scale.md.

    python -m benchmarks.scale driver --count 20000    # memory of the process that leads
    python -m benchmarks.scale ray --count 400         # one process against two replicas on Ray
    python -m benchmarks.scale experiment --count 100  # a sweep by one process, by two replicas
    python -m benchmarks.scale sweep --count 50        # a sweep by size of batch
    python -m benchmarks.scale prompts                 # many images, tiles, frames
    python -m benchmarks.scale tables --count 10000    # writing and reading Parquet tables

`--write` puts what is printed into docs/scale.md.
"""

import argparse
import dataclasses
import functools
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

import vsink_interp as vi
import vsink_interp.experiments as ex
from benchmarks.marked import write_table
from benchmarks.measure import peak, timed
from benchmarks.models import many_images, narrow

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
CHUNK = 8
PROMPT = vi.toy.language.DESCRIBE


def megabytes():
    """The largest resident memory of this process so far, in MB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def table(head, rows):
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def paths(folder, count):
    """So many samples about a hundred files."""
    for seed in range(100):
        vi.toy.scene(seed).image.save(folder / f"{seed}.png")
    return [(str(folder / f"{i % 100}.png"), PROMPT) for i in range(count)]


def echo():
    """The toy LMM, which answers every sample with the one run that it made."""
    lmm = vi.LMM.from_pretrained("toy", check=False)
    run = lmm.generate(vi.toy.scene(0).image, PROMPT, vi.probes.SegmentMass(), max_new_tokens=2)
    lmm.generate = lambda *_, **__: run
    return lmm


def driver(count):
    """Memory while answers that cost nothing are written, and how long a row takes."""
    marks, seen = [count // 10, count // 2, count], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples, lmm = paths(folder, count), echo()

        def tick(done, total):
            while len(seen) < len(marks) and done >= marks[len(seen)]:
                seen.append(megabytes())
                print(f"{done} of {total}: {seen[-1]:.0f} MB", flush=True)

        began = time.process_time()
        vi.run_dataset(lmm, samples, folder=folder / "rows", chunk=16, max_new_tokens=2, tick=tick)
        spent = time.process_time() - began
    rows = [["largest memory so far, MB", *(f"{one:.0f}" for one in seen)]]
    return table(["samples", *(f"{mark:,}" for mark in marks)], rows) + (
        f"\n\nThe answers were stand-ins: what was measured is reading the images, writing and "
        f"checking: {1000 * spent / count:.1f} ms of CPU a sample."
    )


def open_toy():
    torch.set_num_threads(1)
    return vi.LMM.from_pretrained("toy", check=False)


def rate(samples, folder, opener, **on):
    """From the third chunk that was done to the last: seconds a sample of the clock, and of CPU of
    this process, which on Ray leads alone."""
    ticks = []
    shutil.rmtree(folder, ignore_errors=True)
    vi.run_dataset(
        opener, samples, folder=folder, chunk=CHUNK, max_new_tokens=8,
        tick=lambda done, _: ticks.append((done, time.monotonic(), time.process_time())), **on
    )  # fmt: skip
    # The first chunks of replicas come when their models are open.
    (first, *began), (last, *ended) = ticks[2], ticks[-1]
    return [(end - begin) / (last - first) for begin, end in zip(began, ended, strict=True)]


def on_ray(count):
    """One process, one replica and two, in turns; then answers that cost nothing."""
    import ray

    rounds = {"one process": [], "1 replica": [], "2 replicas": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "HOME": name}
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
        samples, on = paths(folder, count), {"on": "ray", "gpus_per_replica": 0}
        for _ in range(3):
            for replicas, where in ((1, "1 replica"), (2, "2 replicas")):
                rounds[where].append(
                    rate(samples, folder / "rows", open_toy, replicas=replicas, **on)
                )
            rounds["one process"].append(rate(samples, folder / "rows", open_toy))
            print(rounds, flush=True)
        here = rate(samples, folder / "rows", echo)
        there = rate(samples, folder / "rows", echo, replicas=1, **on)
        ray.shutdown()
    times = {where: [clock for clock, _ in found] for where, found in rounds.items()}
    base = statistics.median(times["one process"])
    rows = [
        [
            where,
            f"{1000 * statistics.median(found):.0f}",
            f"{base / statistics.median(found):.2f}",
            f"{base / max(found):.2f} to {base / min(found):.2f}",
        ]
        for where, found in times.items()
    ]
    head = ["", "ms a sample, median of 3", "throughput against one process", "over the rounds"]
    lead = CHUNK * 1000 * statistics.median(cpu for _, cpu in rounds["2 replicas"])
    return table(head, rows) + (
        f"\n\nThe process that leads spends {lead:.0f} ms of CPU on a chunk of {CHUNK} samples. Of "
        f"answers that cost nothing, such a chunk takes {CHUNK * 1000 * here[0]:.0f} ms in one "
        f"process and {CHUNK * 1000 * there[0]:.0f} ms by way of one replica. A replica starts and "
        "opens its model once."
    )


def shared_sweep(cases, opener, **on):
    """Seconds of the clock of a whole sweep, start of replicas and all, and its table."""
    cuts = functools.partial(ex.knockout_sweep, cases=cases)
    began = time.monotonic()
    found = vi.run_experiment(cuts, opener, tick=lambda *_: None, **on)
    return time.monotonic() - began, found.to_pandas()


def experiment(count):
    """A sweep by one process and by two replicas, in turns."""
    import ray

    cases, rounds = ex.Cases.scenes(count), []
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "HOME": name}
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
        on = {"on": "ray", "gpus_per_replica": 0, "replicas": 2}
        for _ in range(3):
            there, shared = shared_sweep(cases, open_toy, log=Path(name) / "there", **on)
            here, alone = shared_sweep(cases, open_toy())
            (Path(name) / "there").unlink()
            assert shared.equals(alone), "rows differ"
            rounds.append((here, there))
            print(rounds[-1], flush=True)
        ray.shutdown()
    ratios = sorted(here / there for here, there in rounds)
    here, there = (statistics.median(times) for times in zip(*rounds, strict=True))
    return (
        f"`knockout_sweep` of {count} scenes ({len(alone)} cuts) took {here:.0f} s in one process, "
        f"and {there:.0f} s by two replicas whose start and opening of the model are counted: "
        f"{ratios[1]:.2f} times as fast ({ratios[0]:.2f} to {ratios[2]:.2f} over three rounds), "
        "with equal tables."
    )


def sweep(count):
    """CPU time of a sweep by size of batch, against plain answers of the same batches."""
    lmm, rows = open_toy(), []
    for size in (1, 8, 50):
        ours, plain = a_graph(lmm, dataclasses.replace(ex.Cases.scenes(count), batch_size=size))
        rows.append([size, f"{ours:.2f} s", f"{plain:.2f} s", f"{ours / plain:.2f}"])
        print(rows[-1], flush=True)
    head = ["batch", "`knockout_sweep`, a graph", "plain answers", "ratio"]
    return f"{count} scenes, CPU time:\n\n{table(head, rows)}"


def a_graph(lmm, cases):
    """Seconds that a sweep takes for one of its graphs, and plain answers to the same cases."""
    layers = [0, 2, 4, 6]
    cuts = functools.partial(
        ex.knockout_sweep, flows=["image -> generated"], layers=layers, tick=lambda *_: None
    )
    ours = timed(lambda: cuts(lmm, cases))

    def plain():
        for part in cases.batches():
            inputs = lmm.encode(list(part.images), list(part.prompts)).inputs
            lmm.hf_model.generate(**inputs, max_new_tokens=cases.max_new_tokens)

    return ours / (1 + len(layers)), timed(plain)


GRAPHS = {
    "plain": None,
    "`SegmentMass`": vi.probes.SegmentMass(rows="query"),
    "`Knockout`": vi.Knockout("image -> query"),
    "`VAR`": vi.VAR(),
}


def prompts(_):
    """Time and memory over the number of images; the plain model beside the edits and probes."""
    lmm = narrow()
    rows, whole = [], []
    for n_images, what in (
        (1, "1"),
        (5, "5 (or five tiles)"),
        (11, "11 (as 32 frames of 196)"),
        (20, "20"),
    ):
        encoding = many_images(lmm, n_images)
        tokens, line = encoding.layout.length, []
        for name, graph in GRAPHS.items():
            run = lambda e=encoding, g=graph: lmm.generate(e, graph=g, max_new_tokens=1)  # noqa: E731
            run()
            seconds, most = min(timed(run) for _ in range(max(3, 60 // n_images**2))), peak(run)
            line.append((seconds, most))
            print(n_images, tokens, name, seconds, most, flush=True)
        base = line[0]
        whole.append(base[1])
        rows.append(
            [
                what,
                f"{tokens:,}",
                f"{base[0]:.2f} s",
                *(f"{s / base[0]:.2f} / {m / base[1]:.2f}" for s, m in line[1:]),
            ]
        )
    return table(["images", "tokens", "plain", *list(GRAPHS)[1:]], rows) + (
        f"\n\nMemory is that of the whole process, {whole[0]:.0f} MB to {whole[-1]:.0f} MB in the "
        "plain model. Time is the least of three runs or more."
    )


def tables(count):
    """Writing and reading tables of as many samples."""
    import pandas

    from vsink_interp.results import Tables

    with tempfile.TemporaryDirectory() as name:
        lmm, folder = vi.LMM.from_pretrained("toy", check=False), Path(name) / "tables"
        graph = vi.probes.SegmentMass(rows="query")
        run = lmm.generate(vi.toy.scene(0).image, PROMPT, graph, max_new_tokens=2)
        made, began = Tables(folder, ["head", "query"]), time.process_time()
        for first in range(0, count, 250):
            made.write(f"chunk={first // 250:05d}", ((first + i, run) for i in range(250)))
        written, began = time.process_time() - began, time.process_time()
        found = pandas.read_parquet(folder / "SegmentMass")
        means = found.groupby(["layer", "segment"], observed=True)["value"].mean()
        read = time.process_time() - began
        size = sum(file.stat().st_size for file in folder.rglob("*.parquet")) / 2**20
        assert len(found) == count * len(means)
    return (
        f"{count:,} samples, {len(found):,} numbers: written in {written:.0f} s of CPU "
        f"({1000 * written / count:.1f} ms a sample), {size:.1f} MB; read and averaged by layer "
        f"and segment with pandas in {read:.2f} s."
    )


WORK = {
    "driver": driver,
    "ray": on_ray,
    "experiment": experiment,
    "sweep": sweep,
    "prompts": prompts,
    "tables": tables,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=WORK)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = WORK[args.what](args.count)
    print(text)
    if args.write:
        write_table(args.what, text, PAGE)


if __name__ == "__main__":
    main()
