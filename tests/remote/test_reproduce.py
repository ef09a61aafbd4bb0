"""`vi.reproduce` of a model on a server: an entry of each kind, and what cannot run there.

That every run of every entry can be sent is a part of `tests/reproduction/test_entries.py`.
"""

import json

import pytest
from typer.testing import CliRunner

import vsink_interp as vi
from vsink_interp.cli.main import app
from vsink_interp.model.progress import silent
from vsink_interp.reproduction import ENTRIES
from vsink_interp.toy import weights_dir

from .conftest import SAME

CONTEXTS = ("B.table1", "B.selection", "AB.top-k")  # B.fig5 measures more of AB.top-k's
KINDS = {"A.fig8b": 1, "B.fig3": 1, "B.fig7": 1, "A.fig3b-pope": 2, **dict.fromkeys(CONTEXTS, 1)}
"""Of captions with probes and with edits, of objects with masks, of a benchmark, of compressed
contexts; how many cases."""
HERE = [entry.name for entry in ENTRIES if entry.here]
TIMES = ("seconds", "seconds to describe")


@pytest.fixture(scope="module")
def there(loopback):
    return vi.LMM.from_pretrained(str(weights_dir), remote=loopback.host)


@pytest.fixture(scope="module")
def here():
    return vi.LMM.from_pretrained(str(weights_dir))


def measured(name, lmm, limit=1):
    return vi.reproduce(name, lmm, limit=limit, quick=True, tick=silent)


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_those_of_the_model_here(name, loopback, there, here):
    before = loopback.jobs
    found = measured(name, there, KINDS[name])
    assert loopback.jobs > before
    whole = [row for row in measured(name, here, KINDS[name]).rows if row.get("of") not in TIMES]
    for one, other in zip(found.rows, whole, strict=True):
        assert repr({**one, "value": 0}) == repr({**other, "value": 0}), "intervals may be NaN"
        assert one["value"] == pytest.approx(other["value"], abs=10 * SAME)
    assert found.about["server"] == loopback.host
    assert ("left out: seconds: on a server" in found.table()) is (name == "B.table1")


@pytest.mark.parametrize("name", HERE)
def test_what_needs_the_model_here_is_refused_before_anything_is_sent(name, loopback, there):
    before = loopback.jobs
    with pytest.raises(vi.CapabilityError) as told:
        measured(name, there)
    assert loopback.jobs == before
    (entry,) = (one for one in ENTRIES if one.name == name)
    assert f"{name} is not measured on a server: {entry.here}. Nothing was sent" in str(told.value)


def reproduce(loopback, out, *words):
    model = ["--model", str(weights_dir), "--remote", loopback.host]
    return CliRunner().invoke(app, ["reproduce", *words, *model, "--quick", "--out", str(out)])


def test_the_command_fetches_what_it_needs(loopback, tmp_path, monkeypatch):
    """Full patterns of any size, and more bytes than are fetched unasked."""
    monkeypatch.setattr("vsink_interp.remote.client.LARGE", 1000)
    done = reproduce(loopback, tmp_path, "AB.heads", "--limit", "1", "--json")
    assert done.exit_code == 0, done.stderr
    assert "error" not in json.loads(done.stdout)["reproductions"][0]
    assert (tmp_path / "AB.heads.csv").read_text().startswith("case,")
    assert (tmp_path / "AB.heads.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_says_what_a_server_cannot_measure(loopback, tmp_path):
    before = loopback.jobs
    done = reproduce(loopback, tmp_path, "A.latency")
    assert done.exit_code == 1
    assert "A.latency  not measured: A.latency is not measured on a server" in done.stdout
    assert loopback.jobs == before


def test_a_command_ends_where_no_server_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("vsink_interp.remote.client.Server._compare", lambda *_, **__: None)
    words = ["all", "--quick", "--model", str(weights_dir), "--remote", "http://127.0.0.1:1"]
    done = CliRunner().invoke(app, ["reproduce", *words, "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("vsink: no server answers at")
