"""A version stands in one place, and what repeats it agrees; the archives hold what is needed."""

import re
import tomllib
from pathlib import Path

import vsink_interp as vi

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]


def test_what_repeats_the_version_agrees():
    cited = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    bibtex = re.search(r"version = \{(.*?)\}", (ROOT / "docs" / "cite.md").read_text())[1]
    assert (cited, bibtex) == (VERSION, VERSION)


def test_the_package_knows_its_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", vi.__version__)


def test_the_source_archive_has_every_top_level_file():
    listed = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert all((ROOT / name).exists() for name in listed)
    assert {"docs", "mkdocs.yml", "CITATION.cff", "tests"} <= set(listed), "the tests read them"
