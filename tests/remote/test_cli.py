"""`vsink remote` against the server on loopback."""

import json

from typer.testing import CliRunner

import vsink_interp as vi
from vsink_interp.cli.main import app
from vsink_interp.toy import weights_dir


def ask(*words):
    return CliRunner().invoke(app, ["remote", *words])


def test_models_lists_what_is_hosted(loopback, tiny_dir):
    found = json.loads(ask("models", "--host", loopback.host, "--json").stdout)["models"]
    assert str(tiny_dir) in [row["repo_id"] for row in found]
    assert f"{tiny_dir}  HOT  RUNNING" in ask("models", "--host", loopback.host).stdout


def test_status_compares_versions(loopback):
    loopback.fault("versions")
    found = json.loads(ask("status", "--host", loopback.host, "--json").stdout)
    (loopback.folder / "fault").unlink()
    assert found["deployments"] == len(loopback.hosted) > 2
    assert found["transformers"].startswith("4.40.0, here 5.")
    assert "here" not in found["nnsight"]


def test_an_evaluation_answers_there_as_here(loopback, tmp_path):
    """The toy's questions, off and blind, of a model that opens without weights."""
    words = ["eval", "--tasks", "pope", "--limit", "6", "--graph", "blind", "--json"]
    there = [*words, "--model", str(weights_dir), "--remote", loopback.host]
    before = loopback.jobs
    done = CliRunner().invoke(app, [*there, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.stderr
    assert loopback.jobs == before + 2
    found, here = json.loads(done.stdout), json.loads(CliRunner().invoke(app, words).stdout)
    assert found["tasks"] == here["tasks"]
    assert found["about"]["server"] == loopback.host
    assert here["about"]["server"] is None


def test_no_server_is_one_line_and_status_1(monkeypatch):
    monkeypatch.setattr(vi, "Server", lambda host, **_: quick(host))
    found = ask("status", "--host", "http://127.0.0.1:1")
    assert found.exit_code == 1
    assert found.stderr.startswith("vsink: http://127.0.0.1:1 does not answer")


def quick(host):
    from vsink_interp.remote.client import Server

    return Server(host, patience=0.1)
