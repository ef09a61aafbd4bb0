"""A job on a Ray cluster whose processes are killed at random moments: `make ray`.

2,000 toy scenes on four replicas; two replicas and the driver are killed with -9. What is there at
the end is compared with the run of one process, row by row.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import vsink_interp as vi

SAMPLES, CHUNK, REPLICAS, TOLERANCE = 2000, 16, 4, 1e-5
GRAPH = vi.Knockout("image -> generated") | vi.probes.SegmentMass(layers="4:")
HOW = {"max_new_tokens": 2, "chunk": CHUNK}
LOG = Path(__file__).parents[1] / "docs" / "ray-log.md"


def scenes(count):
    return [(vi.toy.scene(seed).image, vi.toy.language.DESCRIBE) for seed in range(count)]


def open_toy():
    torch.set_num_threads(1)
    return vi.LMM.from_pretrained("toy", check=False)


def answer(folder, count):
    """The driver."""
    on = {"on": "ray", "replicas": REPLICAS, "gpus_per_replica": 0}
    vi.run_dataset(open_toy, scenes(count), GRAPH, folder=folder, **on, **HOW)


def replicas():
    """The processes of replicas that belong to this program's cluster."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::Replica") and ours(int(path.parent.name)):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def ours(pid):
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


class Job:
    """The job from outside: drivers that come and go, and what is said of them."""

    def __init__(self, folder, count, seed):
        self.folder, self.count, self.lines = folder, count, []
        self.random, self.began = random.Random(seed), time.monotonic()

    def say(self, what):
        rows = len(vi.RunStore(self.folder))
        line = f"{time.monotonic() - self.began:7.1f} s  {rows:5d} rows  {what}"
        self.lines.append(line)
        print(line, flush=True)

    def start(self):
        command = [sys.executable, "-m", "benchmarks.ray_job", "--answer", str(self.folder)]
        self.driver = subprocess.Popen([*command, "--samples", str(self.count)])
        self.say("a driver is started")

    def wait_for(self, share):
        """Until about that share of the rows is there, and a random moment longer."""
        while len(vi.RunStore(self.folder)) < share * self.count:
            assert self.driver.poll() is None, "the driver has ended too early"
            time.sleep(0.05)
        time.sleep(self.random.uniform(0, 2))

    def kill_a_replica(self):
        victim = self.random.choice(replicas())
        os.kill(victim, signal.SIGKILL)
        self.say("a replica is killed with -9")

    def kill_the_driver(self):
        self.driver.send_signal(signal.SIGKILL)
        self.driver.wait()
        self.say("the driver is killed with -9")

    def run(self):
        self.start()
        self.wait_for(0.15)
        self.kill_a_replica()
        self.wait_for(0.4)
        self.kill_the_driver()
        self.start()
        self.wait_for(0.65)
        self.kill_a_replica()
        assert self.driver.wait() == 0, "the job failed"
        self.say("the job has ended")


def compare(there, here):
    """The largest difference of ids, logits and records between two stores, row by row."""
    names = [[path.name for path in store.paths()] for store in (there, here)]
    assert names[0] == names[1] == [f"{row:06d}" for row in range(len(here))], "rows differ"
    worst = {"logits": 0.0, "records": 0.0}
    for one, other in zip(there, here, strict=True):
        assert one.ids.equal(other.ids), "ids differ"
        records = [run[vi.probes.SegmentMass].masked.nan_to_num(-1) for run in (one, other)]
        worst["logits"] = max(worst["logits"], float((one.logits - other.logits).abs().max()))
        worst["records"] = max(worst["records"], float((records[0] - records[1]).abs().max()))
    return worst


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answer", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.answer:
        answer(given.answer, given.samples)
        return
    import ray

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "HOME": folder}
        cluster = ray.init(
            address="local", num_cpus=REPLICAS, include_dashboard=False, logging_level="error"
        )
        os.environ["RAY_ADDRESS"] = cluster.address_info["address"]
        job = Job(Path(folder) / "ray", given.samples, given.seed)
        job.run()
        ray.shutdown()
        before = time.monotonic()
        here = vi.run_dataset(
            open_toy(), scenes(given.samples), GRAPH, folder=Path(folder) / "here",
            tick=lambda *_: None, **HOW
        )  # fmt: skip
        job.say(f"one process alone took {time.monotonic() - before:.0f} s for the same")
        total, worst = len(here), compare(vi.RunStore(job.folder), here)
    assert total == given.samples
    job.lines.append(
        f"{total} rows, every one once; ids equal; largest difference: "
        f"logits {worst['logits']:.1e}, shares {worst['records']:.1e}"
    )
    print(job.lines[-1])
    assert max(worst.values()) <= TOLERANCE
    if given.write:
        LOG.write_text(PAGE.format(log="\n".join(job.lines)))


PAGE = """# A job on Ray whose processes are killed

Written by `make ray`: toy scenes in chunks of 16, answered by four replicas on a cluster of one
machine, while two replicas and the driver are killed with -9 at random moments. Then one process
answers the same samples, and the two are compared row by row. The seconds are those of a machine
with two cores, and of what else ran on it.

```text
{log}
```
"""

if __name__ == "__main__":
    main()
