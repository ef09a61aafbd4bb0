"""The committed notebooks are their .py sources, without outputs; `make test` runs them."""

from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))


def test_every_notebook_has_a_source():
    assert (
        {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES} != set()
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_source(source):
    """If this fails: make notebooks."""
    built = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    written = jupytext.read(source)
    assert [(cell.cell_type, cell.source) for cell in built.cells] == [
        (cell.cell_type, cell.source) for cell in written.cells
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(source):
    for cell in nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_quickstart_is_short():
    cells = jupytext.read(FOLDER / "quickstart.py").cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert len(code) <= 14
    assert max(len(source.splitlines()) for source in code) <= 15
    assert "%%time" not in "".join(code)  # a traced cell must be plain source
