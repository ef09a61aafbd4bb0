"""Sessions (several runs in one request) and jobs (runs that another process can collect)."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image

from ..engine import Outcome
from ..errors import CapabilityError, ResultError
from ..graph import EditGraph, Graphlike, as_graph
from ..remote import LARGE, Hosted, Request, Server, check_number, compile_run, read_back
from ..results import Run, layout_from, layout_parts
from ..sinks import SinkDims
from ..storage import entry, read_json, reading, refuse_format, told, write_text
from ..tokens import check_layout
from .encoding import Encoding
from .execution import RunRequest, carry_out

_SESSION = "it is set once for all runs, in lmm.session(remote, allow_large=...)"
REFUSED = {
    "seed": "it sets the generator of this process, and a server has its own; run it locally",
    "remote": _SESSION,
    "allow_large": _SESSION,
}
"""Arguments of `LMM.generate` that a session's `generate` does not take, and why."""


@final
class Job:
    """Runs that were sent to a server.

    ```py
    job = lmm.generate(image, "What is this?", vi.VAR(), remote=vi.Server().job)
    job.status
    (run,) = job.collect(lmm)
    ```

    **Attributes:**

    - `server`: the server.
    - `number`: the server's id of the job.
    - `run_request`: the runs.
    - `expected`: how many bytes they bring back, before compression.
    """

    def __init__(
        self,
        server: Server,
        number: str,
        run_request: list[RunRequest],
        sinks: SinkDims | None,
        expected: int = 0,
    ) -> None:
        self.server = server
        self.number = number
        self.run_request = run_request
        self.sinks = sinks
        self.expected = expected

    def __repr__(self) -> str:
        return f"Job({self.number} at {self.server.host}, runs={len(self.run_request)})"

    @property
    def status(self) -> str:
        """The latest status, such as `QUEUED Your job is number 2 in the queue`.

        **Raises:** `RemoteError` if it failed, `UnreachableError` if the server does not answer.
        """
        response = self.server.status(self.number)
        return f"{response.status.value} {response.description}".strip()

    def collect(self, lmm: Any) -> list[Run]:
        """Wait for the runs and return them.

        **Arguments:**

        - `lmm`: the model, as it was when the runs were requested; its tokenizer decodes answers.

        **Raises:** as `status`; `LayoutError` if edits together left a row no key to attend to.
        """
        states = self.server.collected(self.number, len(self.run_request), self.expected)
        return [
            carry_out(lmm, run_request, read_back(state), self.sinks, alone=False)
            for run_request, state in zip(self.run_request, states, strict=True)
        ]

    def save(self, path: str | Path) -> None:
        """Write the job to a JSON file, which contains no API key.

        **Raises:** `CapabilityError` if a graph holds a bare function.
        """
        found = {
            "format": 1,
            "host": self.server.host,
            "number": self.number,
            "expected": self.expected,
            "sinks": None if self.sinks is None else [self.sinks.dims, self.sinks.tau],
            "run_request": [_to_plain(run_request) for run_request in self.run_request],
        }
        write_text(path, json.dumps(found))

    @classmethod
    def load(
        cls,
        path: str | Path,
        server: Server | None = None,
        *,
        trusted: Iterable[str] = (),
        allow_large: bool = False,
    ) -> "Job":
        """Read a job that `save` wrote, in this process or another.

        The server that the file names is asked; it gets your key only if nnsight is configured for
        it.

        **Arguments:**

        - `server`: the server to ask instead.
        - `trusted`: as `EditGraph.load` takes it.
        - `allow_large`: take a file that lets its server send more than 64 MB.

        **Raises:** `ResultError` naming the file and what is wrong with it, also if there is none.
        """
        found = read_json(path, "job; write one with job.save(path)")
        refuse_format(found, 1, path)
        host, number = (entry(found, name, str, path) for name in ("host", "number"))
        sinks = entry(found, "sinks", (list, type(None)), path)
        requests = []
        for place, one in enumerate(entry(found, "run_request", list, path)):
            with reading(path, f"run_request[{place}]"):
                requests.append(_from_plain(one, trusted))
        with reading(path):
            there = server or Server(host)
            known = None if sinks is None else SinkDims(tuple(sinks[0]), sinks[1])
            expected = entry(found, "expected", int, path)
            if expected > LARGE and not allow_large:
                raise ResultError(
                    f"its server may send {expected:,} bytes; if you asked for that much, load it "
                    "with allow_large=True"
                )
            return cls(there, check_number(number), requests, known, expected)


@final
class Session:
    """Collects runs and sends them as one request: one round trip, one place in the queue.

    ```py
    with lmm.session(remote=True) as session:
        plain = session.generate(image, "What is this?")
        cut = session.generate(image, "What is this?", vi.Knockout("image -> query generated"))
    print(session.runs[plain].text, session.runs[cut].text)
    ```

    Leaving the `with` block sends the runs and waits; `submit` sends without waiting. Should the
    wait end early, the runs are still there: `session.job.collect(lmm)`.
    """

    def __init__(self, lmm: Any, server: Server, hosted: Hosted, *, allow_large: bool) -> None:
        self.lmm = lmm
        self.server = server
        self.hosted = hosted
        self.allow_large = allow_large
        self.run_request: list[RunRequest] = []
        self.requests: list[Request] = []
        self.runs: list[Run] = []
        self.job: Job | None = None
        self._sinks: SinkDims | None = None

    def run(self, image: Any, prompt: Any = None, graph: Graphlike = None) -> int:
        """Add a forward pass, as in `LMM.run`; returns its index in `runs`.

        **Raises:** as `LMM.run`.
        """
        return self._add(RunRequest(self.lmm._whole(image, prompt), as_graph(graph)))

    def generate(
        self,
        image: Any,
        prompt: Any = None,
        graph: Graphlike = None,
        *,
        max_new_tokens: int | None = None,
        **hf_kwargs: Any,
    ) -> int:
        """Add an answer, as in `LMM.generate`; returns its index in `runs`.

        **Raises:** as `LMM.generate`; `CapabilityError` for a seed, or its own server.
        """
        for name in hf_kwargs.keys() & REFUSED.keys():
            raise CapabilityError(f"a session's generate takes no {name}: {REFUSED[name]}")
        encoding = self.lmm._encoding(image, prompt)
        return self._add(RunRequest(encoding, as_graph(graph), True, max_new_tokens, hf_kwargs))

    def _add(self, run_request: RunRequest) -> int:
        def compile_only(hooked: Any, *args: Any) -> Outcome:
            self._sinks = args[3] or self._sinks
            raise _Compiled(compile_run(hooked, self.hosted, *args))

        try:
            carry_out(self.lmm, run_request, compile_only, alone=False)
        except _Compiled as compiled:
            self.requests.append(compiled.request)
        self.run_request.append(run_request)
        return len(self.run_request) - 1

    def submit(self) -> Job:
        """Send the runs without waiting.

        **Raises:** `ResultError` if there are none; else as `LMM.run`.
        """
        if not self.requests:
            raise ResultError("this session has nothing to send; ask with run or generate first")
        number = self.server.submit(self.hosted, self.requests, allow_large=self.allow_large)
        expected = sum(sum(request.sizes.values()) for request in self.requests)
        self.job = Job(self.server, number, list(self.run_request), self._sinks, expected)
        return self.job

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self.requests:
            self.runs = self.submit().collect(self.lmm)


@final
class _Compiled(BaseException):
    """Ends a run where it would begin: what is to be sent is known."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request


_FIELDS: dict[str, Any] = {
    "graph": str, "generates": bool, "n_new": (int, type(None)), "hf_kwargs": dict,
    "batched": bool, "prompts": list, "n_images": list, "tensors": dict, "images": list,
}  # fmt: skip


def _to_plain(run_request: RunRequest) -> dict[str, Any]:
    encoding = run_request.encoding
    tensors, layout = layout_parts(encoding.layout)
    tensors["ids"] = encoding.inputs["input_ids"]
    return {
        **layout,
        "graph": run_request.graph.to_json(),
        "generates": run_request.generates,
        "n_new": run_request.n_new,
        "hf_kwargs": dict(run_request.hf_kwargs),
        "batched": encoding.batched,
        "prompts": encoding.prompts,
        "n_images": [len(row) for row in encoding.images],
        "tensors": {name: tensor.tolist() for name, tensor in tensors.items()},
    }


def _from_plain(found: Mapping[str, Any], trusted: Iterable[str]) -> RunRequest:
    for name, kinds in _FIELDS.items():
        entry(found, name, kinds, "a run")
    if any(not isinstance(n, int) or not 0 <= n < 2**10 for n in found["n_images"]):
        raise ResultError(f"n_images: {told(found['n_images'])}")
    tensors = {name: torch.tensor(value) for name, value in found["tensors"].items()}
    encoding = Encoding(
        {"input_ids": tensors["ids"]},
        layout_from(found, tensors),
        # The images were sent to the server; here only their number matters.
        tuple((Image.new("L", (1, 1)),) * n for n in found["n_images"]),
        tuple(found["prompts"]),
        found["batched"],
    )
    check_layout(encoding.layout)
    if found["n_new"] is not None and found["n_new"] < 1:
        raise ResultError(f"n_new: {found['n_new']}, where an answer has a token at least")
    graph = EditGraph.from_json(found["graph"], trusted=trusted)
    return RunRequest(encoding, graph, found["generates"], found["n_new"], found["hf_kwargs"])
