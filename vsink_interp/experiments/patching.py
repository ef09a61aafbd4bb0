"""Activation patching between two images or two prompts, by layer and segment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, final

import numpy as np
from jaxtyping import Float

from ..edits import Patch
from ..errors import InputError
from ..graph import Layers, resolve_layers, short_name, split_hook
from ..model import LMM, Encoding, ImageInput, Tick, token_id
from ..model.progress import shown
from ..probes import Activation
from ..results import Run
from ..tokens import SEGMENTS
from .result import Result

ImagePrompt: TypeAlias = tuple[ImageInput | None, str]
"""An image, or None, and the prompt about it."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class PatchSweep(Result):
    """How much of a logit difference is recovered by activations of another run.

    **Attributes:**

    - `difference`: the logit of `token` minus that of `against`, with activations of the clean run
        patched into the corrupted run at one layer and segment.
    - `clean`, `corrupted`: the same difference in each run without a patch.
    - `token`, `against`: the words.
    - `hook`: the hook point.
    - `segments`, `layers`: where it was patched.
    - `sizes`: the number of tokens of each segment.
    """

    figure: ClassVar[str] = "patching"

    difference: Float[np.ndarray, "layer segment"]
    clean: float
    corrupted: float
    token: str
    against: str
    hook: str
    segments: tuple[str, ...]
    layers: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def recovered(self) -> Float[np.ndarray, "layer segment"]:
        """The share of the difference that is recovered: 0 as in the corrupted run, 1 as clean."""
        return (self.difference - self.corrupted) / (self.clean - self.corrupted)


def patching(
    lmm: LMM,
    clean: ImagePrompt,
    corrupted: ImagePrompt,
    token: str | int | None = None,
    against: str | int | None = None,
    *,
    hook: str = "hook_resid_pre",
    segments: Sequence[str] | None = None,
    layers: Layers | None = None,
    tick: Tick | None = None,
) -> PatchSweep:
    """Patch activations of a clean run into a corrupted one, layer by layer and segment by segment.

    Activation patching in its denoising form (Meng et al. 2022, arXiv 2202.05262; Zhang and Nanda
    2024, arXiv 2309.16042): where the clean answer is recovered, the activations that produce it
    were patched. Tokens are matched by segment and position, as in `edits.Patch`.

    **Arguments:**

    - `clean`, `corrupted`: image and question of each run: the same question and different images,
        or the same image and questions of equal length.
    - `token`, `against`: words of one token each; by default the model's answers to the clean and
        to the corrupted input.
    - `hook`: a hook point with one row per token, such as `"hook_attn_out"` or `"attn.hook_z"`.
    - `segments`: groups of tokens, patched one at a time; by default the segments of the prompt.
    - `layers`: the layers; by default all that offer the hook point.
    - `tick`: called in the place of a progress bar, after every run.

    **Raises:** `InputError` if both inputs get the same answer, so that there is no difference to
    recover; `LayoutError` if a segment has different lengths in the two prompts.
    """
    tokenizer, size = lmm.processor.tokenizer, lmm.hooked.config.vocab_size
    wanted, less = (None if w is None else token_id(tokenizer, w, size) for w in (token, against))
    offered, hook = lmm.layers_with(hook), short_name(split_hook(hook)[0])
    layers = offered if layers is None else resolve_layers(layers, lmm.n_layers)
    source = lmm.run(*clean, Activation(hook, layers=layers))
    encoding = lmm.encode(*corrupted)
    plain = lmm.run(encoding)
    token = int(source.logits[0, -1].argmax()) if wanted is None else wanted
    against = int(plain.logits[0, -1].argmax()) if less is None else less

    def difference(run: Run) -> float:
        return float(run.logits[0, -1, token] - run.logits[0, -1, against])

    ends = difference(source), difference(plain)
    words = tuple(tokenizer.decode([one]).strip() for one in (token, against))
    if abs(ends[0] - ends[1]) < 1e-4:
        raise InputError(
            f"the logit of {words[0]!r} minus that of {words[1]!r} is the same in both runs, so "
            "there is nothing to recover; choose prompts with different answers, or token= and "
            "against="
        )
    groups = _present(encoding) if segments is None else tuple(segments)
    tell = shown(tick, "patches")
    cells = [(layer, group) for layer in layers for group in groups]
    found = []
    for layer, group in cells:
        patch = Patch(hook, source, layer, rows=group)
        found.append(difference(lmm.run(encoding, graph=patch)))
        tell(len(found), len(cells))
    grid = np.array(found).reshape(len(layers), len(groups))
    sizes = tuple(int(encoding.layout.mask(group)[0].sum()) for group in groups)
    return PatchSweep(grid, *ends, *words, hook, groups, layers, sizes)


def _present(encoding: Encoding) -> tuple[str, ...]:
    """The segments of a prompt, each image apart."""
    tokens = encoding.layout
    names = {"image": tuple(f"image[{i}]" for i in range(len(tokens.images[0])))}
    found = [name for segment in SEGMENTS for name in names.get(segment, (segment,))]
    return tuple(name for name in found if tokens.mask(name).any())
