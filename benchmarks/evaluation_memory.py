"""Ten thousand questions at constant memory: `python benchmarks/evaluation_memory.py`.

Asks POPE's questions about toy scenes that lie in a folder as files, off and blind, and tells the
memory of the process as it goes. Exits with 1 if the last half of the questions added more than
`LIMIT` megabytes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import vsink_interp as vi
from vsink_interp.evaluation import evaluate, load_tasks, toy_benchmark as toy

LIMIT = 30.0
SCENES = 100


def megabytes() -> float:
    """The resident memory of this process (Linux)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def write(folder: Path, count: int) -> None:
    """The benchmark's files, with its questions again under other numbers until they are enough."""
    toy.write(folder, toy.scenes(SCENES))
    path = folder / "pope" / "coco_pope_random.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    more = [{**rows[n % len(rows)], "question_id": n} for n in range(count)]
    for other in path.parent.iterdir():
        other.unlink()
    path.write_text("".join(json.dumps(row) + "\n" for row in more))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=10_000)
    count, lmm, seen = parser.parse_args().questions, vi.LMM.toy(), {}
    start = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, count)
        tasks = load_tasks(["pope"], folder)
        before = megabytes()

        def tick(done: int, total: int) -> None:
            if done // 1000 > len(seen) - 1 or done == total:
                seen[done] = megabytes()
                print(f"{done:6} of {total} questions: {seen[done]:6.0f} MB", flush=True)

        graphs = {"blind": vi.Knockout("image -> query generated")}
        log = folder / "answers.jsonl"
        found = evaluate(lmm, tasks, graphs, log=log, batch_size=50, tick=tick)
        size = log.stat().st_size / 2**20
    (row,) = (r for r in found.rows if r.metric == "accuracy")
    half = next(value for done, value in seen.items() if done >= count // 2)
    grown = megabytes() - half
    print(
        f"{before:.0f} MB before the first question, {half:.0f} at half, {megabytes():.0f} with "
        f"the table (+{grown:.0f}); log {size:.1f} MB; "
        f"{(time.process_time() - start) / 60:.1f} minutes of CPU; "
        f"accuracy {row.off:.3f} off, {row.on:.3f} blind"
    )
    return int(grown > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
