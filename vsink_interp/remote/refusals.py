"""What is said when a server refuses, fails or keeps silent: the reason, and what to do next."""

import json

import httpx
from nnsight import CONFIG
from nnsight.schema.response import ResponseModel, Status

from ..errors import RemoteError
from .transport import Answer
from .untrusted import key_for, plain_text

_LESS = "send less at once: a smaller batch, session or chunk"
_NEXT = {
    "Could not deploy": "`vsink remote models` lists what it hosts",
    "Error provisioning model": "try again later; `vsink remote models` lists what is up",
    "execution timeout": _LESS,
    "out of memory": _LESS,
    "OutOfMemory": _LESS,
    "cancelled or preempted": "nothing is wrong with it: send it again",
}
"""Words of NDIF's own messages, and what helps."""
_LOADING = (Status.PROVISIONING, Status.DEPLOYING)


class UnknownJobError(httpx.RemoteProtocolError):
    """A server does not know a job, or not yet."""


def refuse_status(host: str, answer: Answer) -> None:
    """Refuse an answer that is no success.

    **Raises:** `RemoteError` if asking again does not help, else `httpx.RemoteProtocolError`.
    """
    code, detail = answer.code, _detail(answer)
    if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN) or (
        code == httpx.codes.BAD_REQUEST and "API key" in detail
    ):
        raise RemoteError(_about_key(host))
    if httpx.codes.is_server_error(code):
        raise httpx.RemoteProtocolError(f"status {code}{detail and f': {detail}'}")
    if code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        raise RemoteError(f"{host} takes no request of this size ({code}): {_LESS}")
    if not httpx.codes.is_success(code):
        shown = detail or plain_text(answer.text, 2000)
        raise RemoteError(f"{host} refused the request ({code}): {shown}")


def _detail(answer: Answer) -> str:
    """The server's own words; of the pages that come from a proxy, none."""
    try:
        return plain_text(json.loads(answer.body)["detail"], 2000)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _about_key(host: str) -> str:
    if not CONFIG.API.APIKEY:
        return (
            f"{host} wants an API key, and none is set: run nnsight.login(), or set NDIF_API_KEY "
            "before Python starts; a key is free at login.ndif.us"
        )
    if not key_for(host):
        return (
            f"{host} wants a key, and yours is for {CONFIG.API.HOST}: it goes nowhere else, "
            "and never over http but to this machine; set NDIF_HOST to a server that you trust"
        )
    return (
        f"{host} rejects this API key: run nnsight.login(), or set NDIF_API_KEY; a key is "
        "free at login.ndif.us"
    )


def given_up(host: str, what: str, seconds: float, error: httpx.HTTPError) -> str:
    """The message after a request was repeated for some seconds."""
    if isinstance(error, UnknownJobError):
        return (
            f"{host} does not know this job, asked for {seconds:g} s: it was lost, or sent too "
            "long ago; send its runs again"
        )
    return (
        f"{what}, asked for {seconds:g} s: {error or type(error).__name__}; see whether the "
        "address is right and the network is there (`vsink remote status`), or wait longer with "
        "Server(address, patience=...)"
    )


def misfit(name: str, ours: str, theirs: str, *, exact: bool) -> str:
    """Why two versions of a package do not match; empty if they do."""
    parts = 2 if name == "nnsight" else 1
    if ours.split(".")[:parts] != theirs.split(".")[:parts]:
        return "which do not fit"
    if exact and name == "transformers":
        return "and what attention with windows or image blocks sees is worked out here"
    return ""


def standing(response: ResponseModel) -> str:
    """Where a job stands, in one line."""
    line = f"{response.status.value} {response.description}".strip()
    return f"{line} (loading a model can take minutes)" if response.status in _LOADING else line


def out_of_time(job: str, host: str, line: str, seconds: float) -> str:
    """The message of a job that is waited for no longer."""
    return (
        f"job {job} at {host} is still {line} after {seconds:g} s; it was not cancelled. Wait "
        "longer with Server(address, timeout=...), or send it with remote='job' (a session with "
        "submit()) and collect it when it is done"
    )


def explained(description: str) -> str:
    """A server's error message with its reason moved to the front, before the traceback."""
    lines = [line for line in description.strip().splitlines() if line.strip()]
    reason = lines[-1 if lines[0].startswith("Traceback") else 0] if lines else "no reason given"
    helps = next((f" ({helps})" for words, helps in _NEXT.items() if words in reason), "")
    rest = f"\n{description}" if len(lines) > 1 else ""
    return f"the job failed on the server: {reason}{helps}{rest}"
