"""Files of strangers: nothing of them runs, and one error says what is wrong and where."""

import json
import re
import resource
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import vsink_interp as vi
from tests import plain_process, tiny
from vsink_interp.model.session import Job

GRAPH = vi.Knockout("image -> query", ":2") | vi.probes.SegmentMass()
NODE = json.loads(GRAPH.to_json())["nodes"][0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A graph, a run and a job, as they are saved."""
    from vsink_interp.model.execution import RunRequest
    from vsink_interp.remote.client import Server

    folder = tmp_path_factory.mktemp("saved")
    GRAPH.save(folder / "graph.json")
    tiny.lmm().generate(tiny.encode(), graph=GRAPH, max_new_tokens=2).save(folder / "run")
    asked = RunRequest(tiny.encode(), GRAPH, True, 2, {})
    Job(Server("http://127.0.0.1:1"), "ab12", [asked], None, 100).save(folder / "job.json")
    return folder


LOADERS = {
    "graph.json": vi.EditGraph.load,
    "run/run.json": lambda path: vi.Run.load(path.parent),
    "job.json": Job.load,
}


@pytest.fixture(params=LOADERS)
def file(request, saved, tmp_path):
    """A copy of each file, and what reads it."""
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy" / request.param, LOADERS[request.param]


def test_they_are_read_back(file):
    path, load = file
    assert load(path)


CONTENTS = {
    "nothing": b"", "half": None, "a list": b"[]", "a number": b"3", "null": b"null",
    "bytes": b"\xff\xfe\x00\x01", "deep": b"[" * 100_000, "deep objects": b'{"a":' * 100_000,
    "empty": b"{}",
}  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_file_is_one_error_that_names_it(file, content):
    path, load = file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if CONTENTS[content] is None else CONTENTS[content])
    with pytest.raises(vi.ResultError, match=re.escape(path.name)):
        load(path)


def test_a_missing_file_is_one_error_that_names_it(file):
    path, load = file
    for odd in (path.with_name("none") / path.name, f"{path.parent}/a\0b/run.json"):
        with pytest.raises(vi.ResultError, match="holds no"):
            load(type(path)(odd))


def values(data, at=()):
    """Every place in JSON data."""
    items = data.items() if isinstance(data, dict) else enumerate(data[:3])
    for key, value in items:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from values(value, (*at, key))


ODD = [None, -1, 10**9, 2.5, "x", "\ud800", [], {}, [[[]]], True]


def test_no_field_of_another_kind_is_a_raw_error(file):
    """Each field, three levels deep, replaced by all sorts of values, or left out."""
    path, load = file
    whole = json.loads(path.read_text())
    places = [place for place in values(whole) if len(place) <= 4]
    refused = 0
    for place in places:
        for odd in [*ODD, KeyError]:
            data = json.loads(json.dumps(whole))
            inner = data
            for key in place[:-1]:
                inner = inner[key]
            if odd is KeyError:
                del inner[place[-1]]
            else:
                inner[place[-1]] = odd
            path.write_text(json.dumps(data))
            try:
                load(path)
            except vi.ResultError as error:
                refused += 1
                assert path.name in str(error) and len(str(error)) < 2000
    assert refused > 3 * len(places)


@pytest.mark.parametrize("name", LOADERS)
def test_another_format_is_refused(saved, tmp_path, name):
    shutil.copytree(saved, tmp_path / "copy")
    path = tmp_path / "copy" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(vi.ResultError, match=rf"{path.name} has format 99.*reads 1"):
        LOADERS[name](path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt_length", 10**9), ("prompt_length", 0), ("prompt_length", True), ("sight", "all"),
        ("images", []), ("images", [[[10**6, 10**6, None, []]]]), ("text", 3), ("records", [["a"]]),
        ("windows", ["8"]), ("windows", [True]), ("windows", [0]),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_is_named(saved, tmp_path, field, value):
    for name in ("run/run.json", "job.json"):
        shutil.copytree(saved, tmp_path / name[:3])
        path = tmp_path / name[:3] / name
        data = json.loads(path.read_text())
        inner = data if name.startswith("run") else data["run_request"][0]
        if field in inner:
            inner[field] = value
            path.write_text(json.dumps(data))
            with pytest.raises(vi.ResultError, match=rf"{path.name}.*"):
                LOADERS[name](path)


def test_a_number_of_images_takes_no_memory(saved, tmp_path):
    """A number alone made a tuple of as many entries: a thousand million are 8 GB."""
    path = tmp_path / "job.json"
    data = json.loads((saved / "job.json").read_text())
    data["run_request"][0]["n_images"] = [10**9]
    path.write_text(json.dumps(data))
    limit = resource.getrlimit(resource.RLIMIT_AS)
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (room, limit[1]))
    try:
        with pytest.raises(vi.ResultError, match=r"job\.json.*n_images"):
            Job.load(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


def test_a_file_does_not_say_how_much_its_server_may_send(saved, tmp_path):
    path = tmp_path / "job.json"
    data = json.loads((saved / "job.json").read_text())
    path.write_text(json.dumps(data | {"expected": 10**15}))
    with pytest.raises(
        vi.ResultError, match=r"job\.json.*1,000,000,000,000,000 bytes.*allow_large"
    ):
        Job.load(path)
    assert Job.load(path, allow_large=True).expected == 10**15


@pytest.mark.parametrize("part", ["ids", "logits", "segments", "image_index", "roles", "record.0"])
def test_tensors_of_another_shape_or_none_are_refused(saved, tmp_path, part):
    shutil.copytree(saved / "run", tmp_path / "run")
    path = tmp_path / "run" / "run.safetensors"
    whole = load_file(path)
    for change in (
        None,
        whole[part].flatten()[:1].contiguous(),
        whole[part].float() * float("nan"),
    ):
        if change is not None and part in ("logits", "record.0") and change.ndim > 1:
            continue  # numbers, whatever they are
        rest = {name: tensor for name, tensor in whole.items() if name != part}
        save_file(rest if change is None else {**rest, part: change}, path)
        with pytest.raises(vi.ResultError, match=r"run\.json"):
            vi.Run.load(tmp_path / "run")
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(vi.ResultError, match=r"run\.safetensors"):
        vi.Run.load(tmp_path / "run")


HOSTILE = """
open({said!r}, "a").write("ran")
class Edit: pass
"""


@pytest.mark.parametrize("name", ["hostile:Edit", "this:X", "hostile:open", "os:system", "hostile"])
def test_no_module_that_a_file_names_is_imported(tmp_path, monkeypatch, name, capsys):
    said = tmp_path / "said"
    (tmp_path / "hostile.py").write_text(HOSTILE.format(said=str(said)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"format": 1, "nodes": [{**NODE, "node": name}]}))
    with pytest.raises(vi.ResultError, match=r"graph\.json.*which is not an edit or a probe"):
        vi.EditGraph.load(path)
    assert not said.exists() and "hostile" not in sys.modules
    assert "Zen of Python" not in capsys.readouterr().out


OWN = """
from dataclasses import dataclass
from typing import final
from vsink_interp.graph import Edit

@final
@dataclass(frozen=True)
class Doubled(Edit):
    hook: str = "hook_resid_mid"
    layers: str = ":"

    def apply(self, value, site):
        return 2 * value
"""


def test_a_class_of_ones_own_is_read_once_its_module_is_here_or_trusted(tmp_path):
    (tmp_path / "mine_only.py").write_text(OWN)
    saved = "{'format': 1, 'nodes': [{'node': 'mine_only:Doubled', 'fields': {}}]}"
    code = f"""
import json, sys
import vsink_interp as vi
sys.path.insert(0, {str(tmp_path)!r})
open("graph.json", "w").write(json.dumps({saved}))
try:
    vi.EditGraph.load("graph.json")
except vi.ResultError as error:
    assert "trusted=('mine_only',)" in str(error), error
else:
    raise SystemExit("it was imported")
assert "mine_only" not in sys.modules
graph = vi.EditGraph.load("graph.json", trusted=("mine_only",))
assert type(graph[0]).__name__ == "Doubled"
assert vi.EditGraph.load("graph.json") == graph
"""
    done = plain_process.run(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_chart_holds_no_markup_of_a_graph():
    fn = vi.Fn("hook_embed", lambda value, site: value)  # noqa: ARG005
    object.__setattr__(fn, "key", '"]</pre><script>alert(1)</script>\n  click n0 "javascript:x"')
    drawn = vi.EditGraph(fn).mermaid()
    assert "<" not in drawn.replace("<br/>", "") and ">" not in re.sub(r"<br/>|-->", "", drawn)
    assert drawn.count("\n") == 5 and drawn.count('"') == 2


USERS = """
import vsink_interp as vi
lmm = vi.LMM.toy()
image = vi.toy.scene(0).image
for odd in (float("nan"), 2.5, True, 0, -1, "3"):
    try:
        lmm.generate(image, "what?", max_new_tokens=odd)
    except vi.InputError as error:
        assert "whole number" in str(error)
    else:
        raise SystemExit(f"{odd!r} was taken")
try:
    lmm.run(image, "half a \\ud83d")
except vi.InputError as error:
    assert "half a character" in str(error)
"""


def test_numbers_and_words_that_are_none_are_our_errors():
    """Outside the tests' own checks of annotations, as a user meets it."""
    done = plain_process.run(USERS)
    assert done.returncode == 0, done.stderr
