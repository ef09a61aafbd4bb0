"""Servers that mean harm, or are broken: one kind of error, in bounded time and memory."""

import json
import pickle
import resource
import time
import zipfile

import pytest
import torch
import zstandard

import vsink_interp as vi
from tests import tiny
from tests.remote.malicious import JOB, Malicious, drip, saved
from vsink_interp.model.session import Job
from vsink_interp.remote.client import LARGE, Server
from vsink_interp.remote.untrusted import key_for, plain_text

KEY = "a-key-that-must-not-leak"
ESCAPES = "\x1b[31mred\x1b]0;title\x07\x1b[2J\x9b1mdone\u202e\x00"


@pytest.fixture
def malicious():
    made = []

    def make(**says):
        made.append(Malicious(**says))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def key(monkeypatch):
    from nnsight import CONFIG

    monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)
    return CONFIG.API


def status(what="COMPLETED", job=JOB, description="", data=None):
    found = {"id": job, "status": what, "description": description, "data": data}
    return json.dumps(found).encode()


def result(malicious, content):
    """A server whose job is done, with this result."""
    one = malicious(result=content)
    one.server.says["/response"] = lambda: status(data=f"{one.host}/result")
    return Server(one.host, patience=0.2, timeout=20.0, watch=list)


GOOD = {"pieces": [], "blind": [], "lost": [], "logits": [torch.zeros(1, 1, 4)], "ids": None}


class Harm:
    def __reduce__(self):
        return print, ("harm",)


def bomb():
    return zstandard.ZstdCompressor().compress(bytes(300 * 2**20))


RESULTS = {
    "empty": b"",
    "no zstandard": b"not compressed at all",
    "cut": saved({"found": [GOOD]})[:-40],
    "no zip": zstandard.ZstdCompressor().compress(b"hello"),
    "a pickle": zstandard.ZstdCompressor().compress(pickle.dumps({"found": []})),
    "code in a pickle": saved({"found": [Harm()]}),
    "nothing found": saved({"other": []}),
    "no list": saved({"found": torch.zeros(3)}),
    "no runs": saved({"found": [1, 2]}),
    "no mapping": saved([1]),
    "a bomb of zeros": bomb,
    "a bomb in a zip": lambda: saved(
        {"found": [torch.zeros(40 * 2**20)]}, level=zipfile.ZIP_DEFLATED
    ),
    "a tensor that unfolds": saved({"found": [torch.zeros(1).expand(2**30, 2**10)]}),
    "too large": lambda: saved({"found": [torch.rand(40 * 2**18)]}),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_malformed_result_is_one_error_and_bounded(malicious, name, capfd):
    content = RESULTS[name]
    server = result(malicious, content() if callable(content) else content)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(vi.RemoteError) as caught:
        server.wait(JOB, expected=2**20)
    assert "weights_only" not in str(caught.value) or "cannot be read" in str(caught.value)
    assert "weights_only=False" not in str(caught.value)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 120 * 1024, f"{grown / 1024:.0f} MB for a result of 1 MB"
    assert time.monotonic() - began < 10
    assert "harm" not in capfd.readouterr().out


def test_a_result_of_the_expected_size_is_taken(malicious):
    (state,) = result(malicious, saved({"found": [GOOD]})).wait(JOB, expected=16)
    assert torch.equal(state["logits"][0], GOOD["logits"][0])


STATUSES = {
    "no JSON": b"<html>",
    "a list": b"[]",
    "no id": b'{"status": "COMPLETED"}',
    "no such status": b'{"id": "x", "status": "EXPLODED"}',
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "of another job": status(job="another"),
    "no address": status(data=None),
    "a number for an address": status(data=7),
    "a file": status(data="file:///etc/passwd"),
    "an odd address": status(data="http://[::1"),
    "a redirection": (302, {"Location": "http://127.0.0.1:1/"}, b""),
    "too long": lambda: status(description="x" * 5_000_000),
}


@pytest.mark.parametrize("name", STATUSES)
def test_a_malformed_status_is_one_error(malicious, name):
    server = Server(malicious(response=STATUSES[name]).host, patience=0.2, timeout=5.0, watch=list)
    with pytest.raises(vi.RemoteError) as caught:
        server.wait(JOB)
    assert server.host in str(caught.value) or "127.0.0.1" in str(caught.value)


@pytest.mark.parametrize(
    "says", [b"", b"[]", b"{}", b'{"packages": 3}', b'{"packages": []}', b"\xff"]
)
def test_malformed_versions_are_one_error(malicious, says):
    one = malicious(env=says, status=says)
    server = Server(one.host, patience=0.2, watch=list)
    if says != b'{"packages": []}':
        with pytest.raises(vi.RemoteError, match="its versions"):
            server.packages()
    if says not in (b"{}",) and not says.startswith(b'{"pack'):
        with pytest.raises(vi.RemoteError, match="what it hosts"):
            server.models()


@pytest.mark.parametrize("deployments", ["[]", "3", '{"a": 3}', '{"a": [1]}'])
def test_malformed_deployments_are_one_error(malicious, deployments):
    server = Server(malicious(status=f'{{"deployments": {deployments}}}'.encode()).host)
    with pytest.raises(vi.RemoteError, match="what it hosts"):
        server.models()


def test_a_job_that_never_ends_is_waited_for_until_the_deadline(malicious):
    server = Server(malicious(response=status("QUEUED")).host, timeout=0.4, watch=list)
    began = time.monotonic()
    with pytest.raises(vi.RemoteError, match=r"still QUEUED after 0\.4 s.*timeout="):
        server.wait(JOB)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("part", ["result", "response", "headers"])
def test_a_trickle_ends_at_the_deadline(malicious, part, monkeypatch):
    monkeypatch.setattr("vsink_interp.remote.client.MOMENT", 0.5)
    if part == "result":
        server = result(malicious, drip)
    else:
        chunks = drip if part == "response" else lambda: (200, {"X": "y" * 10}, drip())
        server = Server(malicious(response=chunks).host, patience=0.2, watch=list)
    server.timeout = 0.5
    began = time.monotonic()
    with pytest.raises(vi.RemoteError, match="in the time that it has"):
        server.wait(JOB)
    assert time.monotonic() - began < 5


def test_an_endless_result_is_cut_off(malicious):
    server = result(malicious, lambda: (bytes(2**20) for _ in range(2000)))
    with pytest.raises(vi.RemoteError, match="sends more than the"):
        server.wait(JOB, expected=2**20)


def test_what_a_terminal_would_obey_is_taken_out(malicious):
    assert plain_text(ESCAPES) == "reddone"
    assert plain_text("a\nb\tc ünï 図") == "a\nb\tc ünï 図"
    told = []
    one = malicious(
        response=iter([status("RUNNING", description=ESCAPES)]).__next__,
        status=json.dumps({"deployments": {"a": {"task": ESCAPES}}}).encode(),
        env=json.dumps({"packages": {"torch": ESCAPES}}).encode(),
    )
    server = Server(one.host, patience=0.2, timeout=0.1, watch=told.append)
    with pytest.raises(vi.RemoteError):
        server.wait(JOB)
    one.server.says["/response"] = status("ERROR", description=f"Traceback\n{ESCAPES}: oh no")
    with pytest.raises(vi.RemoteError, match="reddone: oh no") as caught:
        server.status(JOB)
    one.server.says["/response"] = (418, {}, ESCAPES.encode())
    with pytest.raises(vi.RemoteError, match="refused") as refused:
        server.status(JOB)
    said = [
        *told,
        str(caught.value),
        str(refused.value),
        str(server.models()),
        str(server.packages()),
    ]
    assert not set("".join(said)) & set("\x1b\x00\x07\x9b\u202e")


@pytest.mark.parametrize("number", ["../../env?x=", "a/b", "", "x" * 200, "é", "a b", "a\n"])
def test_a_number_that_leads_elsewhere_is_refused(malicious, number, tmp_path):
    one = malicious(response=status())
    with pytest.raises(vi.RemoteError, match="is no number of a job"):
        Server(one.host).status(number)
    path = saved_job(tmp_path, number=number, host=one.host)
    with pytest.raises(vi.ResultError, match=r"job\.json.*no number of a job"):
        Job.load(path)
    assert one.heard == []


def test_a_number_that_the_server_gives_is_looked_at_too(malicious, lmm):
    one = malicious(env=versions(), request=status("RECEIVED", job="../../env?x="))
    with pytest.raises(vi.RemoteError, match="is no number of a job"):
        lmm.run(*tiny.PROMPTS["one image"], remote=Server(one.host, patience=0.2, watch=list))
    assert [path for _, path, _ in one.heard] == ["/env", "/request"]


@pytest.mark.parametrize(
    "says", [b"<html>", b"{}", (500, {}, b"oh"), (403, {}, b""), (307, {}, b"")]
)
def test_a_malformed_answer_to_a_request_is_one_error(malicious, lmm, says):
    one = malicious(env=versions(), request=says)
    with pytest.raises(vi.RemoteError):
        lmm.run(*tiny.PROMPTS["one image"], remote=Server(one.host, patience=0.2, watch=list))


def versions():
    from importlib.metadata import version

    names = ("torch", "transformers", "nnsight")
    return json.dumps({"packages": {name: version(name) for name in names}}).encode()


@pytest.fixture(scope="module")
def lmm(tiny_dir):
    return vi.LMM.from_pretrained(tiny_dir, remote="http://127.0.0.1:1")


WRONG = {
    "no pieces": {k: v for k, v in GOOD.items() if k != "pieces"},
    "odd pieces": GOOD | {"pieces": [(1, 2)]},
    "odd flags": GOOD | {"blind": [3]},
    "no logits": GOOD | {"logits": []},
    "logits of another prompt": GOOD,
    "words for logits": GOOD | {"logits": ["x"]},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_result_of_another_run_is_one_error(malicious, lmm, name):
    with pytest.raises(vi.RemoteError, match="cannot be read"):
        lmm.run(*tiny.PROMPTS["one image"], remote=done(malicious, [WRONG[name]]))


def done(malicious, states):
    """A server that takes a request and has this for its result."""
    made = malicious(env=versions(), request=status("RECEIVED"), result=saved({"found": states}))
    made.server.says["/response"] = lambda: status(data=f"{made.host}/result")
    return Server(made.host, patience=0.2, watch=list)


def test_another_number_of_runs_is_one_error(malicious, lmm):
    made = malicious(
        env=versions(), request=status("RECEIVED"), result=saved({"found": [GOOD] * 2})
    )
    made.server.says["/response"] = lambda: status(data=f"{made.host}/result")
    with pytest.raises(vi.RemoteError, match="sent 2 runs of a job of 1"):
        lmm.run(*tiny.PROMPTS["one image"], remote=Server(made.host, patience=0.2, watch=list))


@pytest.mark.parametrize(
    ("host", "configured", "told"),
    [
        ("https://api.ndif.us", "https://api.ndif.us", True),
        ("https://api.ndif.us:443", "https://api.ndif.us", True),
        ("https://API.ndif.us", "https://api.ndif.us/", True),
        ("http://127.0.0.1:9", "https://api.ndif.us", True),
        ("http://[::1]:9", "https://api.ndif.us", True),
        ("http://localhost:9", "https://api.ndif.us", True),
        ("http://api.ndif.us", "https://api.ndif.us", False),
        ("http://api.ndif.us", "http://api.ndif.us", False),
        ("https://api.ndif.us:8443", "https://api.ndif.us", False),
        ("https://evil.example", "https://api.ndif.us", False),
        ("https://api.ndif.us.evil.example", "https://api.ndif.us", False),
        ("https://127.0.0.1.evil.example", "https://api.ndif.us", False),
        ("http://localhost.evil.example", "https://api.ndif.us", False),
    ],
)
def test_the_key_goes_to_the_configured_server_alone(key, monkeypatch, host, configured, told):
    monkeypatch.setattr(key, "HOST", configured)
    assert key_for(host) == (KEY if told else None)


@pytest.mark.usefixtures("key")
def test_no_key_is_sent_elsewhere(malicious, lmm, monkeypatch, tmp_path):
    """As a server by its address, and as the one that a job's file names."""
    monkeypatch.setattr("vsink_interp.remote.untrusted._loopback", lambda _: False)
    one = malicious(env=versions(), request=(401, {}, b""), response=(401, {}, b""), status=b"{}")
    server = Server(one.host, patience=0.2, watch=list)
    server.models()
    for ask in (
        lambda: lmm.run(*tiny.PROMPTS["one image"], remote=server),
        lambda: Job.load(saved_job(tmp_path, host=one.host)).status,
    ):
        with pytest.raises(vi.RemoteError, match="wants a key, and yours is for"):
            ask()
    assert {path for _, path, _ in one.heard} == {"/status", "/env", "/request", f"/response/{JOB}"}
    assert KEY not in str(one.heard)


@pytest.mark.usefixtures("key")
def test_a_redirection_does_not_take_the_key_along(malicious):
    other = malicious(response=status())
    one = malicious(response=(302, {"Location": f"{other.host}/response/{JOB}"}, b""))
    with pytest.raises(vi.RemoteError, match="302"):
        Server(one.host, patience=0.2).status(JOB)
    assert other.heard == [] and KEY in str(one.heard)


@pytest.mark.parametrize(
    "host",
    [
        "ftp://x", "http://", "http://u:p@x", "http://x?y", "http://x#y", "http://x y", "http://x:0x",
        "http://x\n", "//x", "http://x\\y",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(host):
    with pytest.raises(vi.CapabilityError, match="is no address"):
        Server(host)


def saved_job(tmp_path, **changes):
    found = {"format": 1, "host": "http://127.0.0.1:1", "number": JOB, "sinks": None}
    path = tmp_path / "job.json"
    path.write_text(json.dumps(found | {"expected": LARGE, "run_request": []} | changes))
    return path
