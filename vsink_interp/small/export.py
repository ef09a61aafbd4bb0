"""Make an adapter of a training folder: `python -m vsink_interp.small.export FOLDER anchored`.

The projector is folded into transformers' own two layers; everything is rounded to fp16, once.
"""

import argparse
from pathlib import Path

import torch

from . import adapters_dir
from .align import Projector
from .lora import saved
from .model import FORMS, save_adapter


def export(folder: Path, form: str, target: Path) -> None:
    """Write the adapter of a form: `aligned` from the alignment, else from the last checkpoint."""
    aligned = torch.load(folder / "aligned.pt", weights_only=True)
    state, factors = aligned["projector"], {}
    if form != "aligned":
        checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
        state = checkpoint["projector"]
        factors = saved(checkpoint["lora"])
    width, features = state["linear_1.weight"].shape
    projector = Projector(features, width)
    projector.load_state_dict(state)
    save_adapter(target, projector.folded(), factors)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("form", choices=(*FORMS, "control"))
    parser.add_argument("--out", type=Path, help="the file; that of the package by default")
    asked = parser.parse_args()
    target = asked.out or adapters_dir / f"{asked.form}.safetensors"
    export(asked.folder, asked.form, target)


if __name__ == "__main__":
    main()
