"""Talking to an NDIF server: submit, wait, fetch. What it says is not trusted: `untrusted`."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, final

import httpx
from nnsight import CONFIG
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.schema.response import ResponseModel, Status

from ..errors import CapabilityError, RemoteError, UnreachableError
from .refusals import (
    UnknownJobError,
    explained,
    given_up,
    misfit,
    out_of_time,
    refuse_status,
    standing,
)
from .request import Hosted, Request, send
from .transport import Answer, Bounds, ask
from .untrusted import (
    address,
    answering,
    check_number,
    key_for,
    load_result,
    plain_text,
    plain_values,
)

Watch = Callable[[str], None]
LARGE = 64 * 2**20
"""The most bytes that a request fetches without `allow_large`."""
MATCHING = ("nnsight", "transformers")
UNTOLD = "unknown"
SMALL = 4 * 2**20
"""The most bytes of an answer that is no result."""
SLACK = 16 * 2**20
"""What a result may have beside the tensors that were asked for."""
MOMENT = 60.0
"""Seconds for an answer that is no result."""
PULSE = 60.0
"""Seconds after which a job that waits on is told of again."""


def tell(line: str) -> None:
    """Print a line on stderr, unless nnsight's `CONFIG.APP.REMOTE_LOGGING` is off."""
    if CONFIG.APP.REMOTE_LOGGING:
        print(f"remote: {plain_text(line)}", file=sys.stderr)  # noqa: T201 (meant for whoever waits)


@final
class Submitting(RemoteBackend):
    """nnsight's backend for one request that is not waited for; it notes how much was sent."""

    sent = 0
    timeout = MOMENT

    def _serialize(self, tracer: Any) -> bytes:
        # nnsight's own would first register every module of the working folder to be sent by value:
        # nothing of them is needed, and registering outlives the run.
        from nnsight.schema.request import RequestModel

        blob = RequestModel.serialize(tracer, self.compress)
        self.sent = len(blob)
        return blob

    def _post(self, request: Any, blob: bytes) -> ResponseModel:
        # nnsight's own would send a key to any address, and read an answer of any size.
        headers = {
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": version("nnsight"),
            "python-version": sys.version,
        }
        if self.api_key:
            headers["ndif-api-key"] = self.api_key
        answer = ask(
            "POST",
            f"{self.host}/request",
            Bounds(SMALL, time.monotonic() + self.timeout),
            headers,
            data={"data": request.metadata()},
            files={"blob": ("request", blob, "application/octet-stream")},
        )
        refuse_status(self.host, answer)
        with answering(self.host, "an answer to a request"):
            response = ResponseModel.model_validate_json(answer.body)
        check_number(response.id)
        return response


@final
class Server:
    """An NDIF server: its address, and how long to retry.

    ```py
    server = vi.Server("http://ndif.example.org:5001", timeout=600)
    lmm.generate(image, "What is this?", vi.VAR(), remote=server).text
    job = lmm.generate(image, "What is this?", vi.VAR(), remote=server.job)    # not waited for
    ```

    **Attributes:**

    - `host`: its address, `http://...`; by default, the one in nnsight's configuration.
    - `patience`: for how many seconds to retry if the server does not answer or does not know a
        job.
    - `timeout`: for how many seconds to wait for a job, in the queue and while its result comes.
    - `watch`: called with one line about each size and status; `tell` by default.
    - `allow_large`: fetch large results and full patterns of every run, as if each said so.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        patience: float = 30.0,
        timeout: float = 7200.0,
        watch: Watch | None = None,
        allow_large: bool = False,
    ) -> None:
        self.host = (host or CONFIG.API.HOST).rstrip("/")
        address(self.host)
        self.patience = patience
        self.timeout = timeout
        self.watch: Watch = watch or tell
        self.allow_large = allow_large
        self._theirs: dict[str, str] = {}
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"Server({self.host!r})"

    @property
    def job(self) -> "Later":
        """This server as `remote=` of runs that are not waited for: `run` and `generate` return a
        `Job`."""
        return Later(self)

    def submit(self, hosted: Hosted, requests: Sequence[Request], *, allow_large: bool) -> str:
        """Send runs as one job, and return its id.

        **Raises:** `CapabilityError` for results that are too large to fetch unasked, or versions
        that do not match; `RemoteError` if the server refuses; `UnreachableError` if none answers.
        """
        self._weigh(requests, allow_large=allow_large or self.allow_large)
        self._compare(exact=any(request.job["exact"] for request in requests))
        if any(request.job["targets"] for request in requests):
            self._refuse_apart()
        backend = Submitting(
            hosted.key, host=self.host, env=hosted.nnsight._remoteable_get_env(), blocking=False
        )
        backend.display.enabled = False
        backend.api_key = key_for(self.host) or ""
        backend.timeout = self.timeout
        try:
            send(hosted, requests, backend)
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"no server answers at {self.host}: {error}; send the runs again later"
            ) from error
        assert backend.job_id is not None  # noqa: S101 (it was accepted)
        self.watch(f"sent {_bytes(backend.sent)} to {self.host} as job {backend.job_id}")
        return backend.job_id

    def _weigh(self, requests: Sequence[Request], *, allow_large: bool) -> None:
        total = sum(sum(request.sizes.values()) for request in requests)
        self.watch(f"about {_bytes(total)} will come back, before compression")
        full = sorted({name for request in requests for name in request.full})
        if allow_large or (total <= LARGE and not full):
            return
        parts: dict[str, int] = {}
        for request in requests:
            for name, size in request.sizes.items():
                parts[name] = parts.get(name, 0) + size
        largest = sorted(parts.items(), key=lambda part: -part[1])[:3]
        listed = ", ".join(f"{name} {_bytes(size)}" for name, size in largest)
        why = f"full patterns ({', '.join(full)})" if full else f"about {_bytes(total)}"
        raise CapabilityError(
            f"this would bring home {why}; the largest parts are: {listed}. Ask for a reduction "
            "(SegmentMass, AttentionMaps, fewer rows or layers; generate with max_new_tokens=1 in "
            "place of run for the last row's logits alone), or say allow_large=True; for whatever "
            "measures many runs, open the model with remote=vi.Server(address, allow_large=True)"
        )

    def _compare(self, *, exact: bool) -> None:
        """Refuse a server whose package versions do not match ours; report other differences once.

        `exact` demands equal versions, for masks that transformers computed here.
        """
        self._theirs = self._theirs or self._packages()
        for name in MATCHING:
            ours, their = version(name), self._theirs[name]
            if their == UNTOLD:
                raise CapabilityError(
                    f"{self.host} does not say which {name} it runs, which has to match; is it an "
                    "NDIF server?"
                )
            if ours == their:
                continue
            if why := misfit(name, ours, their, exact=exact):
                raise CapabilityError(
                    f"{self.host} runs {name} {their} and this is {name} {ours}, {why}; install "
                    f"{name}=={their} here"
                )
            if name not in self._told:
                self._told.add(name)
                self.watch(f"{self.host} runs {name} {their}, this is {ours}")

    def _packages(self) -> dict[str, str]:
        answer = self._get("/env")
        with answering(self.host, "its versions"):
            theirs = dict(json.loads(answer.body)["packages"])
        return {name: plain_text(theirs.get(name, UNTOLD), 100) for name in (*MATCHING, "torch")}

    @property
    def trusts(self) -> bool | None:
        """Whether code of your key runs beside the model's weights, or in a sandbox (False); None
        if the server does not say, as without a key.

        **Raises:** `UnreachableError` if no server answers.
        """
        try:
            answer = self._get("/whoami")
            with answering(self.host, "who you are"):
                found = json.loads(answer.body)
                known, tags = found["email"], list(found["tags"])
        except UnreachableError:
            raise
        except RemoteError:
            return None
        return "trusted" in tags if known or tags else None

    def _refuse_apart(self) -> None:
        """Refuse gradients where code runs apart from the model; where that is not known, the job
        itself says so."""
        if self.trusts is False:
            raise CapabilityError(
                f"{self.host} runs the code of your key in a sandbox, apart from the model, so no "
                "gradient comes back: a key that it trusts has them, or run it locally"
            )

    def wait(self, job: str, expected: int = LARGE) -> list[Mapping[str, Any]]:
        """Wait for a job and return its result.

        **Arguments:**

        - `expected`: how many bytes were asked for; at most twice as many, and a little, are taken.

        **Raises:** `RemoteError` if the job failed, with the server's traceback, or is not done in
        time; `UnreachableError` if the server cannot be reached, or has lost the job.
        """
        began, pause, said = time.monotonic(), 0.02, ("", 0.0)
        while True:
            response, waited = self.status(job), time.monotonic() - began
            line = standing(response)
            if response.status == Status.COMPLETED:
                return self.fetch(response, Bounds(2 * expected + SLACK, began + self.timeout))
            if waited > self.timeout:
                raise RemoteError(out_of_time(job, self.host, line, self.timeout))
            if line != said[0] or waited - said[1] > PULSE:
                since = f" ({waited / 60:.0f} min)" if line == said[0] else ""
                said = line, waited
                self.watch(f"job {job}: {line}{since}")
            time.sleep(pause)
            # A job that is done is noticed within a fifth of its time.
            pause = min(pause * 1.2, 2.0)

    def collected(self, job: str, n_runs: int, expected: int) -> list[Mapping[str, Any]]:
        """As `wait`, of a job of so many runs.

        **Raises:** as `wait`; `RemoteError` for another number of runs.
        """
        states = self.wait(job, expected)
        if len(states) != n_runs:
            raise RemoteError(f"{self.host} sent {len(states)} runs of a job of {n_runs}")
        return states

    def status(self, job: str) -> ResponseModel:
        """The latest status of a job.

        **Raises:** as `wait`.
        """
        answer = self._get(f"/response/{check_number(job)}", lost=True)
        with answering(self.host, "the status of a job"):
            response = ResponseModel.model_validate_json(answer.body)
        if response.id != job:
            raise RemoteError(
                f"{self.host} was asked about job {job} and answered about "
                f"{plain_text(response.id, 60)!r}"
            )
        response.description = plain_text(response.description)
        if response.status == Status.ERROR:
            raise RemoteError(explained(response.description))
        return response

    def fetch(self, response: ResponseModel, bounds: Bounds) -> list[Mapping[str, Any]]:
        """The result of a completed job, asked for again if the connection is cut.

        **Raises:** `RemoteError` if it is larger or slower than it may be, or cannot be read.
        """
        content = self._download(response.data, bounds)
        self.watch(f"fetched {_bytes(len(content))}")
        with answering(self.host, "a result"):
            return load_result(content, bounds.size, compressed=bool(CONFIG.API.COMPRESS))

    def _download(self, url: object, bounds: Bounds) -> bytes:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise RemoteError(f"{self.host} sent no address of a result: {plain_text(url, 200)!r}")

        def attempt() -> bytes:
            with answering(self.host, "an address of a result"):
                httpx.URL(url)
            # An address of its own, which no key is sent to.
            answer = ask("GET", url, bounds, {})
            if answer.code != httpx.codes.OK:
                raise httpx.RemoteProtocolError(f"status {answer.code}")
            return answer.body

        return self._again(attempt, f"the download of the result from {self.host} broke off")

    def _get(self, path: str, *, lost: bool = False) -> Answer:
        key = key_for(self.host)
        headers = {"ndif-api-key": key} if key else {}

        def attempt() -> Answer:
            bounds = Bounds(SMALL, time.monotonic() + MOMENT)
            answer = ask("GET", self.host + path, bounds, headers)
            if answer.code == httpx.codes.NOT_FOUND and lost:
                raise UnknownJobError("404")
            refuse_status(self.host, answer)
            return answer

        return self._again(attempt, f"{self.host} does not answer")

    def _again(self, attempt: Callable[[], Any], what: str) -> Any:
        """Retry until it works or `patience` has run out."""
        until, pause = time.monotonic() + self.patience, 0.05
        while True:
            try:
                return attempt()
            except httpx.HTTPError as error:
                if time.monotonic() + pause > until:
                    raise UnreachableError(
                        given_up(self.host, what, self.patience, error)
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def models(self) -> list[dict[str, Any]]:
        """The hosted models: one record per deployment.

        **Raises:** `UnreachableError` if no server answers.
        """
        answer = self._get("/status")
        with answering(self.host, "what it hosts"):
            found = json.loads(answer.body).get("deployments", {})
            return [dict(plain_values(one)) for one in found.values()]

    def packages(self) -> dict[str, tuple[str, str]]:
        """Our version and the server's, of the packages that have to match."""
        return {name: (version(name), their) for name, their in self._packages().items()}


@final
@dataclass(frozen=True, eq=False)
class Later:
    """A server whose runs are not waited for, as `Server.job` gives it."""

    server: Server


def _bytes(size: int | float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
