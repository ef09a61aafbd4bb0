"""What a user of NDIF is told: the reason in the server's words, and the next step."""

import json

import pytest
from typer.testing import CliRunner

import vsink_interp as vi
from tests import tiny
from tests.remote.malicious import JOB, Malicious
from tests.remote.test_malicious import KEY, saved_job, status, versions
from vsink_interp.cli.main import app
from vsink_interp.model.session import Job
from vsink_interp.remote import client
from vsink_interp.remote.client import Server

ASSET, PROMPT = tiny.PROMPTS["one image"]


def says(text, code=400):
    """An error of NDIF's API, as FastAPI packs it."""
    return code, {}, json.dumps({"detail": text}).encode()


@pytest.fixture
def ndif():
    """Makes a server that answers as it is told to, and hosts everything."""
    made = []

    def make(**answers):
        made.append(Malicious(**{"env": versions(), "whoami": b"{}", **answers}))
        return Server(made[-1].host, patience=0.1, timeout=0.3, watch=list)

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def lmm(tiny_dir):
    return vi.LMM.from_pretrained(tiny_dir, remote="http://127.0.0.1:1")


BAD_KEY = f"Invalid API key format: '{KEY}'. API keys must be in the format: xxxxxxxx-xxxx"
DOWN = "Service temporarily unavailable: compute backend is reconnecting."
REFUSED = {
    "no key": (None, says("Missing or invalid API key.", 401), "wants an API key, and none is set"),
    "a wrong key": (
        KEY,
        says("Invalid API key.", 403),
        r"rejects this API key: run nnsight\.login",
    ),
    "a malformed key": (KEY, says(BAD_KEY), "rejects this API key"),
    "an old client": (KEY, says("Client nnsight 0.8.1 is too old"), r"\(400\): Client nnsight 0"),
    "too large": (KEY, (413, {}, b"<html>"), r"no request of this size \(413\): send less"),
    "Ray is away": (KEY, says(DOWN, 503), "status 503: Service temporarily .* send the runs again"),
    "a proxy's page": (KEY, (502, {}, b"<html>bad</html>"), r"no server .*status 502; send"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why_and_what_next(name, ndif, lmm, monkeypatch):
    from nnsight import CONFIG

    key, answer, said = REFUSED[name]
    monkeypatch.setattr(CONFIG.API, "APIKEY", key)
    with pytest.raises(vi.RemoteError, match=said) as caught:
        lmm.run(ASSET, PROMPT, remote=ndif(request=answer))
    assert KEY not in str(caught.value) and "<html>" not in str(caught.value)


FAILED = {
    "Could not deploy this model. x/y is too large": r"too large \(`vsink remote models` lists",
    "Your job exceeded the execution timeout of 60s.": r"60s\. \(send less at once",
    "Traceback ...\ntorch.OutOfMemoryError: CUDA out of memory": r"out of memory \(send less",
    f"Traceback ...\nValueError: {KEY}": r"failed on the server: ValueError: \[your API key\]",
}


@pytest.mark.parametrize("description", FAILED)
def test_a_failed_job_says_what_helps(description, ndif, monkeypatch):
    from nnsight import CONFIG

    monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)
    with pytest.raises(vi.RemoteError, match=FAILED[description]) as caught:
        ndif(response=status("ERROR", description=description)).wait(JOB)
    one_line = "\n" not in description
    assert str(caught.value).count(description.splitlines()[0]) == 1
    assert ("\n" not in str(caught.value)) == one_line and KEY not in str(caught.value)


def test_a_long_wait_is_told_of_and_can_be_taken_up_again(ndif, monkeypatch, tmp_path):
    monkeypatch.setattr(client, "PULSE", 0.1)
    server, lines = ndif(response=status("DEPLOYING", description="Model Deploying...")), []
    server.watch = lines.append
    with pytest.raises(vi.RemoteError, match=r"not cancelled.*timeout=\.\.\.\).*remote='job'"):
        server.wait(JOB)
    assert lines[0] == f"job {JOB}: DEPLOYING Model Deploying... (loading a model can take minutes)"
    assert lines[1] == f"{lines[0]} (0 min)" and len(lines) < 5
    job = Job.load(saved_job(tmp_path, host=server.host))
    assert job.status == "DEPLOYING Model Deploying..."


def test_a_session_that_is_left_early_has_its_job(ndif, lmm):
    server = ndif(request=status("RECEIVED"), response=status("QUEUED"))
    session = lmm.session(server)
    with pytest.raises(vi.RemoteError, match="still QUEUED"), session:
        session.run(ASSET, PROMPT)
    assert session.job.number == JOB and session.job.status == "QUEUED"


def test_a_job_that_is_lost_and_a_server_that_is_not_there(ndif):
    with pytest.raises(vi.UnreachableError, match=r"does not know this job.*send its runs again"):
        ndif(response=says("No response for request", 404)).status(JOB)
    with pytest.raises(vi.UnreachableError, match=r"vsink remote status.*patience="):
        Server("http://127.0.0.1:1", patience=0.1).models()


def test_a_server_without_versions_is_none(ndif, lmm):
    with pytest.raises(vi.CapabilityError, match="does not say which nnsight it runs"):
        lmm.run(ASSET, PROMPT, remote=ndif(env=b'{"packages": {}}'))


IDENTITIES = {
    True: b'{"email": "me", "tags": ["trusted"]}',
    False: b'{"email": "me", "tags": []}',
    None: b'{"email": null, "tags": []}',
}


@pytest.mark.parametrize("trusts", IDENTITIES)
def test_a_gradient_is_refused_before_anything_is_sent_where_code_runs_apart(trusts, ndif, lmm):
    server = ndif(whoami=IDENTITIES[trusts], request=says("that would have been sent", 418))
    assert server.trusts is trusts
    probe = vi.probes.Gradient("hook_resid_pre", of="logit of 7 at last")
    said = "no gradient comes back" if trusts is False else "would have been sent"
    with pytest.raises(vi.VsinkError, match=said):
        lmm.run(ASSET, PROMPT, probe, remote=server)
    with pytest.raises(vi.RemoteError, match="would have been sent"):
        lmm.run(ASSET, PROMPT, remote=server)


def test_the_command_says_what_the_server_makes_of_the_key(ndif):
    server = ndif(whoami=IDENTITIES[False], status=b'{"deployments": {}}')
    told = CliRunner().invoke(app, ["remote", "status", "--host", server.host, "--json"])
    assert "without gradients" in json.loads(told.stdout)["key"]
    told = CliRunner().invoke(app, ["remote", "models", "--host", server.host])
    assert told.exit_code == 0 and "none is up" in told.stderr
