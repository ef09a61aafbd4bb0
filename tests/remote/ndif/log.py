"""What `run.sh` keeps: `measure FILE` times calls and weighs them, `page FOLDER ...` writes it."""

import json
import os
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

import vsink_interp as vi
from benchmarks.remote import GRAPHS
from tests.remote.conftest import Real, untrusted
from vsink_interp.remote.client import Server
from vsink_interp.toy import weights_dir

MODES = ("trusted", "sandboxed")
PACKAGES = ("ndif", "ray", "nnsight", "transformers", "torch", "redis", "moto")
PAGE = """# The tests against a real NDIF server

Written by `make ndif`, which starts ndif {ndif} with Ray, Debian's redis and a stand-in for S3 on
one machine without a GPU ({cores} cores), runs `tests/remote` against it in both of its modes, and
ends everything it started. It took {minutes:.0f} minutes. *Trusted* code runs in the process that
holds the model. *Sandboxed* code, which is what a key without that mark gets, runs in a process of
its own beside a model without weights; each value that it reads crosses a socket, as a copy that is
written back.

`tests/remote/ndif/patch.py` lists what is changed in ndif and nnsight to run without a GPU. Models
are in fp32.

| | server | here |
|---|---|---|
{versions}

## What passed

The model is the tiny LLaVA of the tests. Every edit and probe is compared with a local run, in ids,
logits and records, to 1e-5, contrasts (VCD, ICD, edits of a second pass) to 1e-4. So are DropKeys,
questions to compressed contexts, test-time registers in the vision encoder, and gradients where
code is trusted; in the sandbox the job says why it has none.

Tiny models of other families:

| | runs as it does here |
|---|---|
| Gemma 3 | Steer, VCD, ICD, registers; other edits of attention want the same transformers |
| InternVL | Steer, VCD, ICD, registers in a patch, Knockout, DropKeys, VAR, a compressed context |
| Qwen2.5-VL | Steer, VCD, ICD, Knockout, DropKeys, VAR |

What is left out needs a server that can be broken on purpose, and runs against our own on loopback.

{passed}

## What a call costs

The toy LMM, 8 new tokens, the median of three calls{busy}. Sent and fetched are what
crossed the wire.

| | sent | fetched | trusted | sandboxed |
|---|--:|--:|--:|--:|
{calls}

A sandboxed call starts a process first; a session pays for that once.
"""


def measure(file):
    """Bytes and seconds of a few calls of the toy."""
    from nnsight.schema.request import RequestModel

    told = []
    with pytest.MonkeyPatch.context() as patch:
        if not Real.trusted:
            patch.setattr(RequestModel, "metadata", untrusted)
        lmm = vi.LMM.from_pretrained(
            weights_dir, remote=Server(Real.host, patience=300.0, watch=told.append)
        )
        lmm.sinks = vi.LMM.toy().sinks
        call(lmm, vi.EditGraph(), told)  # the first call loads the model
        rows = {name: call(lmm, graph, told) for name, graph in GRAPHS.items()}
        rows["all five in a session"] = call(lmm, None, told)
    Path(file).write_text(json.dumps(rows))


def call(lmm, graph, told):
    """Sent, fetched, and the median of the seconds."""
    image, prompt, seconds = vi.toy.scene(0).image, "what is this ?", []
    for _ in range(3):
        told.clear()
        began = time.perf_counter()
        with lmm.session(Server(Real.host, watch=told.append)) as session:
            for one in GRAPHS.values() if graph is None else [graph]:
                session.generate(image, prompt, one, max_new_tokens=8)
        seconds.append(time.perf_counter() - began)
    sent, fetched = (
        next(line.removeprefix(word).split(" to ")[0] for line in told if line.startswith(word))
        for word in ("sent ", "fetched ")
    )
    return sent, fetched, statistics.median(seconds)


def page(folder, server, seconds):
    """The page, from what the tests said and what was measured."""
    ask = f"from importlib.metadata import version\nfor p in {PACKAGES}: print(version(p))"
    theirs = subprocess.run([server, "-c", ask], capture_output=True, text=True, check=True)
    versions = dict(zip(PACKAGES, theirs.stdout.split(), strict=True))
    here = {"nnsight", "transformers", "torch"}
    listed = [f"| {p} | {v} | {version(p) if p in here else ''} |" for p, v in versions.items()]
    python = ".".join(map(str, sys.version_info[:3]))
    last = {m: Path(folder, f"{m}.txt").read_text().strip().splitlines()[-1] for m in MODES}
    trusted, sandboxed = (json.loads(Path(folder, f"{m}.json").read_text()) for m in MODES)
    calls = [
        f"| {name} | {sent} | {fetched} | {took:.1f} s | {sandboxed[name][2]:.1f} s |"
        for name, (sent, fetched, took) in trusted.items()
    ]
    text = PAGE.format(
        ndif=versions["ndif"],
        cores=os.cpu_count(),
        minutes=int(seconds) / 60,
        versions="\n".join([f"| Python | {python} | {python} |", *listed]),
        passed="\n".join(["```", *(f"{m:>9}: {line}" for m, line in last.items()), "```"]),
        busy=" on a machine that did other work" if os.getloadavg()[2] > 4 else "",
        calls="\n".join(calls),
    )
    Path("docs/remote-ndif-log.md").write_text(text)


if __name__ == "__main__":
    {"measure": measure, "page": page}[sys.argv[1]](*sys.argv[2:])
