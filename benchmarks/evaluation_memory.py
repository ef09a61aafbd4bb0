"""Ten thousand questions at constant memory, into docs/evaluation.md.

    python benchmarks/evaluation_memory.py --write

Asks POPE's questions about toy scenes that lie in a folder as files, off and blind, and tells the
largest memory the process has had so far, and how much it holds. Exits with 1 if the questions
after the first tenth added more than `LIMIT` megabytes to the largest.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from marked import write_table

import vsink_interp as vi
from vsink_interp.evaluation import evaluate, load_tasks, toy_benchmark as toy

LIMIT = 30.0
SCENES = 100


def megabytes() -> tuple[float, float]:
    """The resident memory of this process, the largest so far and now (Linux)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024, int(fields["VmRSS"].split()[0]) / 1024


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
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--write", action="store_true", help="into docs/evaluation.md")
    args = parser.parse_args()
    count, lmm, start = args.questions, vi.LMM.toy(), time.process_time()
    marks = [count // 10 * n for n in (1, 5)] + [count]
    seen: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, count)
        tasks = load_tasks(["pope"], folder)
        before = megabytes()

        def tick(done: int, total: int) -> None:
            while len(seen) < len(marks) and done >= marks[len(seen)]:
                seen.append(megabytes())
                print(f"{done:6} of {total} questions: {seen[-1]} MB", flush=True)

        graphs = {"blind": vi.Knockout("image -> query generated")}
        log = folder / "answers.jsonl"
        found = evaluate(lmm, tasks, graphs, log=log, batch_size=args.batch_size, tick=tick)
        size = log.stat().st_size / 2**20
    found.table()
    columns = [before, *seen, megabytes()]
    lines = [
        f"| | before the first | {' | '.join(f'{mark:,}' for mark in marks)} | with the table |",
        "|---|" + "---|" * len(columns),
        *(
            f"| {kind}, MB | {' | '.join(f'{one[i]:.0f}' for one in columns)} |"
            for i, kind in enumerate(("largest so far", "held"))
        ),
        "",
        f"{count:,} questions, off and blind, {args.batch_size} at once; the log takes "
        f"{size:.1f} MB; {(time.process_time() - start) / 60:.0f} minutes of one CPU core.",
    ]
    text = "\n".join(lines)
    print(text)
    if args.write:
        write_table("memory", text)
    return int(megabytes()[0] - seen[0][0] > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
