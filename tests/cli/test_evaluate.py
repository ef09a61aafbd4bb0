"""`vsink eval`."""

import csv
import json

import pytest
from typer.testing import CliRunner

import vsink_interp as vi
from vsink_interp.cli.main import app


def ask(*words):
    return CliRunner().invoke(app, ["eval", *map(str, words)])


def test_one_json_object_and_the_files(tmp_path):
    """Questions of each task, off and under each graph: a recipe and a file."""
    vi.EditGraph(vi.Knockout("image -> query generated")).save(tmp_path / "mine.json")
    graphs = ("--graph", "var", "--graph", tmp_path / "mine.json")
    asked = ask("--tasks", "pope,mme", *graphs, "--limit", 4, "--json", "--out", tmp_path / "out")
    assert asked.exit_code == 0, asked.stderr
    found = json.loads(asked.stdout)
    assert {name: task["questions"] for name, task in found["tasks"].items()} == {
        "pope": 4, "mme": 4,
    }  # fmt: skip
    assert set(found["about"]["graphs"]) == {"var", "mine"}
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == found
    with (tmp_path / "out" / "scores.csv").open() as file:
        assert {row["graph"] for row in csv.DictReader(file)} == {"var", "mine"}
    assert "mine" in (tmp_path / "out" / "changes.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--graph", "var", "--graph", "var"], "two graphs of one name (var, var)"),
        (["--graph", "vra"], "did you mean"),
        (["--tasks", "mmvp"], "the toy benchmark has pope, mme, chair"),
        (["--judge-url", "http://127.0.0.1:1"], "name the model too"),
        (["--remote", "http://127.0.0.1:1"], "name it with --model"),
        (["--remote", "http://127.0.0.1:1", "--model", "small/aligned"], "name it with --model"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_is_refused(words, told):
    asked = ask(*words)
    assert asked.exit_code == 1
    assert told in asked.stderr


def test_a_judge_acts_or_is_refused(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    asked = ask("--judge", "m", "--judge-url", "http://127.0.0.1:1/v1")
    assert asked.exit_code == 1
    assert "the tasks are pope, mme, chair; ask mmhal as well" in asked.stderr


def test_two_files_of_one_name_are_refused(tmp_path):
    """Tables could not tell them apart."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        vi.EditGraph(vi.VAR()).save(tmp_path / folder / "mine.json")
    asked = ask("--graph", tmp_path / "a" / "mine.json", "--graph", tmp_path / "b" / "mine.json")
    assert "two graphs of one name (mine, mine): rename a file" in asked.stderr
