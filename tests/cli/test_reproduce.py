"""`vsink reproduce`."""

import json

import pytest
from typer.testing import CliRunner

import vsink_interp as vi
from vsink_interp.cli.main import app
from vsink_interp.cli.reproduce import WithAddress


def invoke(*words):
    return CliRunner().invoke(app, ["reproduce", *words])


def test_the_list():
    found = json.loads(invoke("list", "--json").stdout)
    assert {"A.fig1", "B.table1"} <= {one["name"] for one in found}
    assert "A.fig3b" in invoke("list").stdout


def test_one_of_them(tmp_path, opened):
    out = invoke("A.fig8b", "--quick", "--limit", "1", "--out", str(tmp_path), "--json")
    found = json.loads(out.stdout)["reproductions"]
    assert [one["name"] for one in found] == ["A.fig8b"]
    assert opened == ["toy"]
    assert (tmp_path / "A.fig8b.csv").read_text().startswith("case,")
    assert (tmp_path / "A.fig8b.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("opened")
def test_all_of_them_go_on_where_one_cannot(tmp_path, monkeypatch):
    from vsink_interp import reproduction
    from vsink_interp.reproduction import find

    monkeypatch.setattr(reproduction, "ENTRIES", (find("A.fig8a"), find("B.fig6")))
    data = tmp_path / "data"
    data.mkdir()
    vi.toy.scene(0).image.save(data / "0.png")
    out = tmp_path / "out"
    found = invoke("all", "--limit", "1", "--data", str(data), "--out", str(out))
    assert found.exit_code == 0, found.output
    assert "B.fig6  not measured" in found.stdout
    page = (out / "index.html").read_text()
    assert "A.fig8a" in page
    assert "no masks" in page
    assert [one["name"] for one in json.loads((out / "index.json").read_text())] == [
        "A.fig8a",
        "B.fig6",
    ]


def test_options_of_measuring_do_nothing_to_the_list():
    found = invoke("list", "--limit", "3", "--quick", "--json")
    assert found.exit_code == 1
    assert "leave out --limit, --quick" in found.stderr


def test_an_unknown_one_is_one_line():
    found = invoke("A.fig99")
    assert found.exit_code == 1
    assert "A.fig3b" in found.stderr


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["A.fig1", "--remote"], "configured"),
        (["--remote", "A.fig1", "--quick"], "configured"),
        (["A.fig1", "--remote", "http://127.0.0.1:80"], "http://127.0.0.1:80"),
        (["A.fig1", "--remote", "there"], "there"),
        (["--remote", "list"], "configured"),
        (["A.fig1"], None),
    ],
)
def test_an_address_may_be_left_out(given, read):
    from typer.main import get_command

    command = get_command(app).commands["reproduce"]
    assert isinstance(command, WithAddress)
    with command.make_context("reproduce", list(given)) as context:
        assert context.params["remote"] == read
        assert context.params["name"] == (given[-1] if given[-1] == "list" else "A.fig1")


def test_a_file_where_a_folder_is_meant_is_one_line(tmp_path):
    (tmp_path / "there").write_text("")
    for words in (["reproduce", "A.fig1"], ["eval"]):
        found = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "there")])
        assert found.exit_code == 1
        assert found.stderr.startswith("vsink: ")
        assert "there cannot be written: File exists" in found.stderr


def test_a_word_that_is_no_address_is_one_line():
    found = invoke("A.fig1", "--model", "some/model", "--remote", "there")
    assert found.exit_code == 1
    assert "'there'" in found.stderr.replace("\n", "")


def test_a_server_wants_a_model():
    found = invoke("A.fig1", "--remote")
    assert found.exit_code == 1
    assert "--model" in found.stderr


def test_shards_of_one_of_them(tmp_path, opened):
    given = ["A.fig8a", "--limit", "3", "--quick", "--out", str(tmp_path)]
    for shard in ("1/2", "0/2"):
        out = invoke(*given, "--shard", shard)
        assert out.exit_code == 0, out.output
        assert "vsink merge" in out.stdout
    refused = invoke(*given)
    assert "not measured: " in refused.stdout
    assert "vsink merge" in refused.stdout
    joined = CliRunner().invoke(app, ["merge", str(tmp_path), "--json"])
    (log,) = json.loads(joined.stdout)["logs"]
    assert (log["rows"], log["steps"]) == (3, 3)
    before = (tmp_path / "A.fig8a.rows.jsonl").read_bytes()
    assert "A.fig8a" in invoke(*given).stdout
    assert (tmp_path / "A.fig8a.rows.jsonl").read_bytes() == before
    assert {row["case"] for row in vi.reproduction.Measurements.load(tmp_path, "A.fig8a").rows} == {
        0, 1, 2
    }  # fmt: skip
    assert {*opened} == {"toy"}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--shard", "8"], "counted from 0, as in 0/8"),
        (["--on", "ray", "--remote"], "on a cluster, and --remote on a server"),
    ],
)
def test_where_it_cannot_be_measured_is_one_line(given, why):
    found = invoke("A.fig1", *given)
    assert found.exit_code == 1
    assert why in found.stderr
