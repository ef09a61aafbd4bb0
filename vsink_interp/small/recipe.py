"""How the small LMM is trained, and which recipe a folder's run has."""

import json
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path

from ..errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; `Recipe()` is the full run that the card describes.

    The learning rate of the updates is constant after `warmup` and falls linearly to 0 over the
    last `decay` of the steps; that of the projector is `projector_rate` times it. After
    `lower_until` of the steps the projector and the updates of layers 8 to 11 stay as they are.
    `blind` is the share of captions, after `blind_from` of the steps, whose rows may not see the
    image; every `prose_every` steps the LM is held to what it was on its own prose. Without
    `anchored` no background patch is held, and the LM's gradient reaches all of them: the control.
    """

    _: KW_ONLY
    steps: int = 3200
    scenes: int = 2
    room: int = 150
    lr: float = 1e-3
    warmup: int = 30
    decay: float = 0.45
    projector_rate: float = 0.15
    lower_until: float = 0.45
    captions: float = 0.7
    blind: float = 0.25
    blind_from: float = 0.3
    prose_every: int = 3
    anchor: float = 0.25
    anchored: bool = True
    align_steps: int = 300
    projection: int = 0
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        left = (self.steps - step) / max(1, self.decay * self.steps)
        return self.lr * min(1.0, (step + 1) / self.warmup, left)

    def holds(self, step: int) -> bool:
        """Whether the projector and layers 8 to 11 stay as they are in a step."""
        return step >= self.lower_until * self.steps

    def keep(self, path: Path) -> None:
        """Write it to a file, or go on with what is there. Another number of steps is no other run.

        **Raises:** `InputError` naming what is different from the file.
        """
        asked = {name: value for name, value in asdict(self).items() if name != "steps"}
        kept = json.loads(path.read_text()) if path.exists() else asked
        other = [f"{name} {kept.get(name)}" for name in asked if asked[name] != kept.get(name)]
        if other:
            raise InputError(
                f"{path.parent} holds a run with {', '.join(other)}: ask for the same to go on "
                "with it, or name another folder"
            )
        path.write_text(json.dumps(asked, indent=1) + "\n")
