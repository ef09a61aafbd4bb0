"""`vsink catalogue`."""

import json

import pytest

import vsink_interp as vi
from tests.cli.test_main import toy, vsink  # noqa: F401 (fixtures)


def test_list_and_show(vsink):  # noqa: F811 (a fixture)
    rows = json.loads(vsink("catalogue", "list", "--json").stdout)["entries"]
    assert [row["dims"] for row in rows if row["model"] == "InternVL2-8B"] == [[3584]]
    text = vsink("catalogue", "list").stdout
    assert len(text.splitlines()) == len(rows)
    found = json.loads(vsink("catalogue", "show", "qwen2.5-vl-7b-instruct", "--json").stdout)
    assert (found["status"], found["tau"]) == ("third-party", None)
    assert "choose from" in vsink("catalogue", "show", "nothing", status=1).stderr


def test_add_then_verify(vsink, toy, tmp_path):  # noqa: F811 (fixtures)
    file = str(tmp_path / "mine.json")
    vsink("catalogue", "add", "--file", file, "--name", "my toy")
    (entry,) = [one for one in vi.catalogue.entries(file) if one.model == "my toy"]
    assert (entry.dims, entry.status) == (toy.sinks.dims, "found")
    assert entry.tau == pytest.approx(toy.sinks.tau, abs=1e-4)
    found = json.loads(vsink("catalogue", "verify", "my toy", "--file", file, "--json").stdout)
    assert found["agrees"]
    assert found["found"] == list(toy.sinks.dims)


def test_verify_ends_with_status_1_where_dimensions_differ(vsink, toy, tmp_path):  # noqa: F811
    wrong = vi.CatalogueEntry(
        "toy", (1, *toy.sinks.dims[1:]), None, width=toy.d_model, status="third-party", source="x"
    )
    vi.catalogue.add(wrong, tmp_path / "wrong.json")
    words = ("catalogue", "verify", "toy", "--file", str(tmp_path / "wrong.json"), "--json")
    found = json.loads(vsink(*words, status=1).stdout)
    assert found["missing"] == [1]
    assert found["extra"] == [toy.sinks.dims[0]]
