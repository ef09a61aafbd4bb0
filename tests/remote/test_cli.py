"""`vsink remote` against the server on loopback."""

import json

from typer.testing import CliRunner

import vsink_interp as vi
from vsink_interp.cli.main import app


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


def test_no_server_is_one_line_and_status_1(monkeypatch):
    monkeypatch.setattr(vi, "Server", lambda host, **_: quick(host))
    found = ask("status", "--host", "http://127.0.0.1:1")
    assert found.exit_code == 1
    assert found.stderr.startswith("vsink: http://127.0.0.1:1 does not answer")


def quick(host):
    from vsink_interp.remote.client import Server

    return Server(host, patience=0.1)
