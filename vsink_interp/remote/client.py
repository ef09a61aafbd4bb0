"""The client of an NDIF server: submit, wait, fetch. API keys stay inside nnsight."""

import io
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, final

import httpx
import torch
import zstandard
from nnsight import CONFIG
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError as NnsightError
from nnsight.schema.response import ResponseModel, Status

from ..errors import CapabilityError, RemoteError, UnreachableError
from .request import Hosted, Request, send

Watch = Callable[[str], None]
LARGE = 64 * 2**20
"""The most bytes that a request fetches without `allow_large`."""
MATCHING = ("nnsight", "transformers")
_TIMEOUT = httpx.Timeout(10.0, read=600.0)


def tell(line: str) -> None:
    """Print a line on stderr, unless nnsight's `CONFIG.APP.REMOTE_LOGGING` is off."""
    if CONFIG.APP.REMOTE_LOGGING:
        print(f"remote: {line}", file=sys.stderr)  # noqa: T201 (meant for whoever waits)


@final
class Submitting(RemoteBackend):
    """nnsight's backend for one request that is not waited for; it notes how much was sent."""

    sent = 0

    def _serialize(self, tracer: Any) -> bytes:
        # nnsight's own would first register every module of the working folder to be sent by value:
        # nothing of them is needed, and registering outlives the run.
        from nnsight.schema.request import RequestModel

        blob = RequestModel.serialize(tracer, self.compress)
        self.sent = len(blob)
        return blob


@final
class Server:
    """An NDIF server: its address, and how long to retry.

    **Attributes:**

    - `host`: its address, `http://...`; by default, the one in nnsight's configuration.
    - `patience`: for how many seconds to retry if the server does not answer or does not know a
        job.
    - `watch`: called with one line about each size and status; `tell` by default.
    """

    def __init__(
        self, host: str | None = None, *, patience: float = 30.0, watch: Watch | None = None
    ) -> None:
        self.host = (host or CONFIG.API.HOST).rstrip("/")
        if not self.host.startswith(("http://", "https://")):
            raise CapabilityError(
                f"remote={host!r} is no address; say True for nnsight's configured server, or "
                "'http://...'"
            )
        self.patience = patience
        self.watch: Watch = watch or tell
        self._theirs: dict[str, str] = {}
        self._told: set[str] = set()

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
        self._weigh(requests, allow_large=allow_large)
        self._compare(exact=any(request.job["exact"] for request in requests))
        backend = Submitting(
            hosted.key, host=self.host, env=hosted.nnsight._remoteable_get_env(), blocking=False
        )
        backend.display.enabled = False
        try:
            send(hosted, requests, backend)
        except NnsightError as error:
            if isinstance(error.__cause__, httpx.HTTPStatusError):
                raise self._refused(error.__cause__.response.status_code, str(error)) from None
            raise UnreachableError(f"no server answers at {self.host}: {error}") from error
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
            "place of run for the last row's logits alone), or say allow_large=True"
        )

    def _compare(self, *, exact: bool) -> None:
        """Refuse a server whose package versions do not match ours; report other differences once.

        `exact` demands equal versions, for masks that transformers computed here.
        """
        self._theirs = self._theirs or self._packages()
        for name in MATCHING:
            ours, their = version(name), self._theirs[name]
            if ours == their:
                continue
            if why := _misfit(name, ours, their, exact=exact):
                raise CapabilityError(
                    f"{self.host} runs {name} {their} and this is {name} {ours}, {why}; install "
                    f"{name}=={their} here"
                )
            if name not in self._told:
                self._told.add(name)
                self.watch(f"{self.host} runs {name} {their}, this is {ours}")

    def _packages(self) -> dict[str, str]:
        theirs = self._get("/env").json()["packages"]
        return {name: str(theirs.get(name)) for name in (*MATCHING, "torch")}

    def wait(self, job: str) -> list[Mapping[str, Any]]:
        """Wait for a job and return its result.

        **Raises:** `RemoteError` if the job failed, with the server's traceback; `UnreachableError`
        if the server cannot be reached or has lost the job.
        """
        seen, pause = "", 0.02
        while True:
            response = self.status(job)
            line = f"{response.status.value} {response.description}".strip()
            if response.status == Status.COMPLETED:
                return self.fetch(response)
            if line != seen:
                self.watch(f"job {job}: {line}")
            seen = line
            time.sleep(pause)
            pause = min(
                pause * 1.2, 2.0
            )  # a job that is done is noticed within a fifth of its time

    def status(self, job: str) -> ResponseModel:
        """The latest status of a job.

        **Raises:** as `wait`.
        """
        answer = self._get(f"/response/{job}", lost=True)
        response = ResponseModel.model_validate_json(answer.text)
        if response.status == Status.ERROR:
            raise RemoteError(_explained(response.description))
        return response

    def fetch(self, response: ResponseModel) -> list[Mapping[str, Any]]:
        """Download the result of a completed job; retried if the connection is cut."""
        content = response.data
        if not isinstance(content, bytes):
            content = self._download(str(content))
        self.watch(f"fetched {_bytes(len(content))}")
        if CONFIG.API.COMPRESS:
            content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        # Tensors, numbers and words: nothing of the server's is run here.
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["found"]

    def _download(self, url: str) -> bytes:
        buffer = io.BytesIO()

        def attempt() -> bytes:
            buffer.seek(0)
            buffer.truncate()
            # An address of its own, which no key is sent to.
            with httpx.stream("GET", url, timeout=_TIMEOUT, verify=_tls(url)) as answer:
                answer.raise_for_status()
                for chunk in answer.iter_bytes():
                    buffer.write(chunk)
            return buffer.getvalue()

        return self._again(attempt, f"the result at {self.host} breaks off")

    def _get(self, path: str, *, lost: bool = False) -> httpx.Response:
        headers = {"ndif-api-key": CONFIG.API.APIKEY} if CONFIG.API.APIKEY else {}

        def attempt() -> httpx.Response:
            url = self.host + path
            answer = httpx.get(url, headers=headers, timeout=_TIMEOUT, verify=_tls(url))
            if answer.status_code == httpx.codes.NOT_FOUND and lost:
                raise httpx.RemoteProtocolError("it does not know this job")
            if answer.is_client_error:
                raise self._refused(answer.status_code, answer.text)
            return answer.raise_for_status()

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
                        f"{what}, asked for {self.patience:g} s: {error or type(error).__name__}"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _refused(self, code: int, detail: str) -> RemoteError:
        if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return RemoteError(
                f"{self.host} does not take this key: run nnsight.login(), or set NDIF_API_KEY; a "
                "key is free at login.ndif.us"
            )
        return RemoteError(f"{self.host} refused the request ({code}): {detail}")

    def models(self) -> list[dict[str, Any]]:
        """The hosted models: one record per deployment.

        **Raises:** `UnreachableError` if no server answers.
        """
        return list(self._get("/status").json().get("deployments", {}).values())

    def packages(self) -> dict[str, tuple[str, str]]:
        """Our version and the server's, of the packages that have to match."""
        return {name: (version(name), their) for name, their in self._packages().items()}


@final
@dataclass(frozen=True, eq=False)
class Later:
    """A server whose runs are not waited for, as `Server.job` gives it."""

    server: Server


def _tls(url: str) -> ssl.SSLContext | bool:
    """The TLS context, cached because reading certificates takes longer than a status request."""
    return _certificates() if url.startswith("https://") else False


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _misfit(name: str, ours: str, theirs: str, *, exact: bool) -> str:
    """Why two versions of a package do not match; empty if they do."""
    parts = 2 if name == "nnsight" else 1
    if ours.split(".")[:parts] != theirs.split(".")[:parts]:
        return "which do not fit"
    if exact and name == "transformers":
        return "and what attention with windows or image blocks sees is worked out here"
    return ""


def _explained(description: str) -> str:
    """A server's error message with its reason moved to the front, before the traceback."""
    lines = [line for line in description.strip().splitlines() if line.strip()]
    reason = lines[-1 if lines[0].startswith("Traceback") else 0] if lines else "no reason given"
    return f"the job failed on the server: {reason}\n{description}"


def _bytes(size: int | float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
