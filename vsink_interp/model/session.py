"""Several runs in one round trip, and jobs that outlive the process that sent them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image

from ..engine import Outcome
from ..errors import CapabilityError, ResultError
from ..graph import EditGraph, Graphlike, as_graph
from ..remote import Hosted, Request, Server, compile_run, read_back
from ..results import Run, layout_from, layout_parts
from ..sinks import SinkDims
from .encoding import Encoding
from .execution import RunRequest, carry_out

_SESSION = "it is said once for all runs, in lmm.session(remote, allow_large=...)"
REFUSED = {
    "seed": "it sets the random numbers here, and a server has its own; run it here",
    "remote": _SESSION,
    "allow_large": _SESSION,
}
"""What `LMM.generate` takes and a session's does not, and why."""


@final
class Job:
    """Runs that a server is working on, or has done.

    **Attributes:**

    - `server`: where.
    - `number`: the server's name for it.
    - `run_request`: the runs.
    """

    def __init__(
        self, server: Server, number: str, run_request: list[RunRequest], sinks: SinkDims | None
    ) -> None:
        self.server = server
        self.number = number
        self.run_request = run_request
        self.sinks = sinks

    def __repr__(self) -> str:
        return f"Job({self.number} at {self.server.host}, runs={len(self.run_request)})"

    @property
    def status(self) -> str:
        """The last status, such as `QUEUED Your job is number 2 in the queue`.

        **Raises:** `RemoteError` if it failed, `UnreachableError` if the server does not answer.
        """
        response = self.server.status(self.number)
        return f"{response.status.value} {response.description}".strip()

    def collect(self, lmm: Any) -> list[Run]:
        """The runs, waiting for them.

        **Arguments:**

        - `lmm`: the model as it was when they were asked for; its tokenizer reads the answers.

        **Raises:** as `status`; `LayoutError` if edits together left a row nothing to attend to.
        """
        states = self.server.wait(self.number)
        return [
            carry_out(lmm, run_request, read_back(state), self.sinks)
            for run_request, state in zip(self.run_request, states, strict=True)
        ]

    def save(self, path: str | Path) -> None:
        """Write the job to a JSON file; no key is in it.

        **Raises:** `CapabilityError` if a graph holds a bare function.
        """
        found = {
            "format": 1,
            "host": self.server.host,
            "number": self.number,
            "sinks": None if self.sinks is None else [self.sinks.dims, self.sinks.tau],
            "run_request": [_to_plain(run_request) for run_request in self.run_request],
        }
        Path(path).write_text(json.dumps(found))

    @classmethod
    def load(cls, path: str | Path, server: Server | None = None) -> "Job":
        """Read a job that `save` wrote, in this process or another.

        **Raises:** `ResultError` if the file holds none.
        """
        try:
            found = json.loads(Path(path).read_text())
            run_request = [_from_plain(one) for one in found["run_request"]]
            sinks = found["sinks"] and SinkDims(tuple(found["sinks"][0]), found["sinks"][1])
            return cls(server or Server(found["host"]), found["number"], run_request, sinks)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultError(f"{path} holds no job; write one with job.save(path)") from error


@final
class Session:
    """Collects runs, and sends them as one request: one round trip, one place in the queue.

    ```py
    with lmm.session(remote=True) as session:
        plain = session.generate(image, "What is this?")
        cut = session.generate(image, "What is this?", vi.Knockout("image -> query generated"))
    print(session.runs[plain].text, session.runs[cut].text)
    ```

    Leaving the layer sends and waits; `submit` sends and does not.
    """

    def __init__(self, lmm: Any, server: Server, hosted: Hosted, *, allow_large: bool) -> None:
        self.lmm = lmm
        self.server = server
        self.hosted = hosted
        self.allow_large = allow_large
        self.run_request: list[RunRequest] = []
        self.requests: list[Request] = []
        self.runs: list[Run] = []
        self._sinks: SinkDims | None = None

    def run(self, image: Any, prompt: Any = None, graph: Graphlike = None) -> int:
        """Ask for a forward pass, as `LMM.run`; its place in `runs`.

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
        """Ask for an answer, as `LMM.generate`; its place in `runs`.

        **Raises:** as `LMM.generate`; `CapabilityError` for a seed, a server of its own, and a
        question that goes on from a context.
        """
        for name in hf_kwargs.keys() & REFUSED.keys():
            raise CapabilityError(f"a session's generate takes no {name}: {REFUSED[name]}")
        encoding = self.lmm._encoding(image, prompt)
        if encoding.cached_prefix is not None:
            raise CapabilityError(
                "a context is not sent to a server; ask with the whole prompt, or ask() it here"
            )
        return self._add(RunRequest(encoding, as_graph(graph), True, max_new_tokens, hf_kwargs))

    def _add(self, run_request: RunRequest) -> int:
        def compile_only(hooked: Any, *args: Any) -> Outcome:
            self._sinks = args[3] or self._sinks
            raise _Compiled(compile_run(hooked, self.hosted, *args))

        try:
            carry_out(self.lmm, run_request, compile_only)
        except _Compiled as compiled:
            self.requests.append(compiled.request)
        self.run_request.append(run_request)
        return len(self.run_request) - 1

    def submit(self) -> Job:
        """Send what was asked for, and do not wait.

        **Raises:** `ResultError` if nothing was; else as `LMM.run`.
        """
        if not self.requests:
            raise ResultError("this session has nothing to send; ask with run or generate first")
        number = self.server.submit(self.hosted, self.requests, allow_large=self.allow_large)
        return Job(self.server, number, list(self.run_request), self._sinks)

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


def _from_plain(found: Mapping[str, Any]) -> RunRequest:
    tensors = {name: torch.tensor(value) for name, value in found["tensors"].items()}
    encoding = Encoding(
        {"input_ids": tensors["ids"]},
        layout_from(found, tensors),
        # The images are with the server; here it matters only that there were some.
        tuple((Image.new("L", (1, 1)),) * n for n in found["n_images"]),
        tuple(found["prompts"]),
        found["batched"],
    )
    graph = EditGraph.from_json(found["graph"])
    return RunRequest(encoding, graph, found["generates"], found["n_new"], found["hf_kwargs"])
