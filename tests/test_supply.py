"""What is installed, and under which licence: floors that go together, weights with a licence."""

import re
import tomllib
from pathlib import Path

import pytest

from vsink_interp.toy import weights_dir

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DECLARED = [
    *PROJECT["project"]["dependencies"],
    *(one for one in PROJECT["dependency-groups"]["test"] if isinstance(one, str)),
]
OLDEST = dict(
    line.split("==")
    for line in (ROOT / "constraints" / "oldest.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
)


def parts(requirement):
    name, floor = re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", requirement).groups()
    return name.lower().replace("_", "-"), [int(part) for part in floor.split(".")]


@pytest.mark.parametrize("requirement", DECLARED)
def test_the_oldest_environment_installs_every_floor(requirement):
    """The floor itself, or its first release: there is no tornado 6.4, but 6.4.1."""
    name, floor = parts(requirement)
    pinned = [int(part) for part in OLDEST[name].split(".")]
    assert pinned[: len(floor)] == floor[: len(pinned)], f"{requirement}, and {OLDEST[name]} tested"


def test_nothing_else_is_pinned():
    assert OLDEST.keys() == {parts(requirement)[0] for requirement in DECLARED}


def test_make_oldest_tests_what_is_there():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (listed,) = re.findall(r"^OLDEST := (.*)$", makefile, re.MULTILINE)
    assert [path for path in listed.split() if not (ROOT / path).exists()] == []
    assert "CONSTRAINTS=constraints/oldest.txt" in makefile


def test_floors_of_one_package_agree():
    """Where the package and its tests, or an extra, name it twice."""
    groups = PROJECT["project"]["optional-dependencies"].values()
    extras = [one for group in groups for one in group]
    known = {}
    for requirement in [*DECLARED, *(one for one in extras if ">=" in one)]:
        name, floor = parts(requirement)
        assert known.setdefault(name, floor) == floor, requirement


def test_the_weights_say_their_licence():
    card = (weights_dir / "CARD.md").read_text()
    assert re.search(r"^Licence of the weights: MIT", card, re.MULTILINE)
    assert PROJECT["project"]["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
