"""The toy LMM: procedural scenes with ground truth, and a small LLaVA trained on them."""

from pathlib import Path
from typing import Final

from .language import Question as Question, SceneObject as SceneObject
from .scenes import Scene as Scene, scene as scene

weights_dir: Final = Path(__file__).parent / "weights"
