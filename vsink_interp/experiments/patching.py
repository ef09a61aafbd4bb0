"""Activation patching between two images or two prompts, by layer and segment, head or position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, final, get_args

import numpy as np
from jaxtyping import Float

from ..edits import Patch
from ..errors import InputError, NotationError, unknown
from ..graph import Layers, find_hook, resolve_layers, short_name, split_hook
from ..model import LMM, Encoding, ImageInput, Tick, token_id
from ..probes import Activation
from ..results import Run
from ..results.result import Result
from ..tokens import NAMES, SEGMENTS
from .provenance import dependence, with_provenance
from .steps import taken

ImagePrompt: TypeAlias = tuple[ImageInput | None, str]
"""An image, or None, and the prompt about it."""

By: TypeAlias = Literal["segment", "head", "position"]
"""What is patched at one layer at a time."""

HEADED = ("head", "kv_head")


@final
@dataclass(frozen=True, eq=False, repr=False)
class PatchSweep(Result):
    """How much of a logit difference is recovered by activations of another run.

    **Attributes:**

    - `difference`: the logit of `token` minus that of `against`, with activations of the clean run
        patched into the corrupted run at one layer and place.
    - `clean`, `corrupted`: the same difference in each run without a patch.
    - `token`, `against`: the words.
    - `hook`: the hook point.
    - `by`: what a place is: a segment, a head or a position in the prompt.
    - `places`: names of segments, numbers of heads, or positions.
    - `names`: the places as a figure names them: a position with its token.
    - `layers`: where it was patched.
    - `sizes`: the number of tokens that are patched at each place.
    """

    figure: ClassVar[str] = "patching"
    measured: ClassVar[tuple[str, ...]] = ("difference", "recovered", "clean", "corrupted")

    difference: Float[np.ndarray, "layer place"]
    clean: float
    corrupted: float
    token: str
    against: str
    hook: str
    by: By
    places: tuple[str | int, ...]
    names: tuple[str, ...]
    layers: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def recovered(self) -> Float[np.ndarray, "layer place"]:
        """The share of the difference that is recovered: 0 as in the corrupted run, 1 as clean."""
        return (self.difference - self.corrupted) / (self.clean - self.corrupted)

    @property
    def segments(self) -> tuple[str, ...]:
        """The places of a sweep by segment.

        **Raises:** `InputError` for another sweep.
        """
        if self.by != "segment":
            raise InputError(f"this sweep is by {self.by}, not by segment; see its `places`")
        return tuple(map(str, self.places))


@with_provenance
def patching(
    lmm: LMM,
    clean: ImagePrompt,
    corrupted: ImagePrompt,
    token: str | int | None = None,
    against: str | int | None = None,
    *,
    by: By = "segment",
    hook: str | None = None,
    segments: Sequence[str] | None = None,
    rows: str = "prompt",
    layers: Layers | None = None,
    log: str | Path | None = None,
    tick: Tick | None = None,
) -> PatchSweep:
    """Patch activations of a clean run into a corrupted one: one layer and one place at a time.

    Activation patching in its denoising form (Meng et al. 2022, arXiv 2202.05262; Zhang and Nanda
    2024, arXiv 2309.16042): where the clean answer is recovered, the activations that produce it
    were patched. Every entry is a run of its own, no approximation. Tokens are matched by segment
    and position, as in `edits.Patch`.

    ```python
    clean, corrupted = ((one, "what color is the circle?") for one in (image, other))
    heads = ex.patching(lmm, clean, corrupted, by="head", layers=[3, 4])     # layer x head
    stream = ex.patching(lmm, clean, corrupted, by="position", rows="last", layers=[5])
    heads.plot()
    ```

    **Arguments:**

    - `clean`, `corrupted`: image and question of each run: the same question and different images,
        or the same image and questions of equal length.
    - `token`, `against`: words of one token each; by default the model's answers to the clean and
        to the corrupted input.
    - `by`: `"segment"`, `"head"` or `"position"`. By position it takes as many runs as there are
        layers times tokens; `rows` and `layers` choose fewer.
    - `hook`: a hook point with one row per token, such as `"hook_attn_out"`; by default
        `"attn.hook_z"`, the output of every head, by head, else `"hook_resid_pre"`.
    - `segments`: groups of tokens, patched one at a time; by default the segments of the prompt.
    - `rows`: by head, the tokens at which a head is patched; by position, the tokens that are
        patched one at a time.
    - `layers`: the layers; by default all that offer the hook point.
    - `log`: a JSONL file to which the difference of every run is written; an interrupted sweep
        continues from it.
    - `tick`: called in the place of a progress bar, after every run.

    **Returns:** a `PatchSweep`; its `plot()` is the heat map.

    **Raises:** `InputError` if both inputs get the same answer, so that there is no difference to
    recover; `LayoutError` if a segment has different lengths in the two prompts; `NotationError` by
    head for a hook point without heads; `ResultError` if `log` belongs to another sweep.
    """
    hook = hook or ("attn.hook_z" if by == "head" else "hook_resid_pre")
    _refuse_odd(by, hook, segments, rows)
    offered, hook = lmm.layers_with(hook), short_name(split_hook(hook)[0])
    layers = offered if layers is None else resolve_layers(layers, lmm.n_layers)
    pair = _Pair.of(lmm, clean, corrupted, (token, against), Activation(hook, layers=layers))
    places = _places(pair, by, segments, rows)
    cells = [(layer, place) for layer in layers for place in places]
    given = {"by": by, "hook": hook, "rows": rows, "tokens": pair.ids}
    about = dependence(
        "patching", lmm, needs_sinks=False, clean=clean, corrupted=corrupted, **given
    )

    def step(layer: int, place: str | int) -> Callable[[], float]:
        patch = _patch(by, hook, pair.source, layer, place, rows)
        return lambda: pair.difference(lmm.run(pair.encoding, graph=patch))

    steps = ((f"layer {layer}, {place}", step(layer, place)) for layer, place in cells)
    found = taken(steps, len(cells), about, log=log, tick=tick, what="patches")
    grid = np.array([*found]).reshape(len(layers), len(places))
    names = tuple(_name(pair, by, place) for place in places)
    sizes = tuple(_size(pair.encoding, by, place, rows) for place in places)
    return PatchSweep(grid, *pair.ends, *pair.words, hook, by, places, names, layers, sizes)


def _refuse_odd(by: str, hook: str, segments: Sequence[str] | None, rows: str) -> None:
    if by not in get_args(By):
        raise InputError(unknown("kind of place", by, get_args(By)))
    if isinstance(segments, str):
        raise InputError(f"segments is a list of groups of tokens: segments=[{segments!r}]")
    if by == "head" and not {*HEADED} & {*find_hook(hook).axes}:
        raise NotationError(
            f"{hook!r} has no heads; by head take 'attn.hook_z', 'attn.hook_q', 'attn.hook_k', "
            "'attn.hook_v' or 'attn.hook_pattern'"
        )
    if by == "segment" and rows != "prompt":
        raise InputError(f"by segment the tokens are named as segments=[{rows!r}], not as rows=")
    if by != "segment" and segments is not None:
        raise InputError(f"segments are for by='segment'; by {by} rows= names the tokens")


@final
@dataclass(frozen=True, eq=False)
class _Pair:
    """A clean and a corrupted run, and the two tokens whose logits are compared."""

    lmm: LMM
    source: Run
    encoding: Encoding
    ids: tuple[int, int]
    ends: tuple[float, float]

    @classmethod
    def of(
        cls,
        lmm: LMM,
        clean: ImagePrompt,
        corrupted: ImagePrompt,
        tokens: tuple[str | int | None, str | int | None],
        probe: Activation,
    ) -> "_Pair":
        tokenizer, size = lmm.processor.tokenizer, lmm.hooked.config.vocab_size
        given = [None if w is None else token_id(tokenizer, w, size) for w in tokens]
        source, encoding = lmm.run(*clean, probe), lmm.encode(*corrupted)
        runs = source, lmm.run(encoding)
        one, other = (
            int(run.logits[0, -1].argmax()) if known is None else known
            for run, known in zip(runs, given, strict=True)
        )
        first, last = (float(run.logits[0, -1, one] - run.logits[0, -1, other]) for run in runs)
        found = cls(lmm, source, encoding, (one, other), (first, last))
        if abs(first - last) < 1e-4:
            raise InputError(
                f"the logit of {found.words[0]!r} minus that of {found.words[1]!r} is the same in "
                "both runs, so there is nothing to recover; choose prompts with different answers, "
                "or token= and against="
            )
        return found

    @property
    def words(self) -> tuple[str, str]:
        one, other = (self.lmm.tokenizer.decode([id_]).strip() for id_ in self.ids)
        return one, other

    def difference(self, run: Run) -> float:
        one, other = self.ids
        return float(run.logits[0, -1, one] - run.logits[0, -1, other])


def _places(
    pair: _Pair, by: By, segments: Sequence[str] | None, rows: str
) -> tuple[str | int, ...]:
    if by == "segment":
        return _present(pair.encoding) if segments is None else tuple(segments)
    if by == "position":
        return tuple(pair.encoding.layout.mask(rows)[0].nonzero().flatten().tolist())
    record = pair.source[Activation]
    axis = next(axis for axis in HEADED if axis in record.axes)
    return tuple(range(record.values.shape[record.axis(axis)]))


def _patch(by: By, hook: str, source: Run, layer: int, place: str | int, rows: str) -> Patch:
    if by == "segment":
        return Patch(hook, source, layer, rows=str(place))
    if by == "head":
        return Patch(hook, source, layer, rows=rows, heads=[int(place)])
    return Patch(hook, source, layer, rows=rows, positions=int(place))


def _name(pair: _Pair, by: By, place: str | int) -> str:
    """A position with its token: an image token by its number in the image."""
    if by != "position":
        return str(place)
    layout, at = pair.encoding.layout, int(place)
    image = int(layout.image_index[0, at])
    if image >= 0:
        first = int((layout.image_index[0] == image).nonzero()[0])
        return f"{at} {NAMES[layout.segments[0, at]]}[{image}] {at - first}"
    return f"{at} {pair.lmm.tokenizer.decode([int(pair.encoding.inputs['input_ids'][0, at])])}"


def _size(encoding: Encoding, by: By, place: str | int, rows: str) -> int:
    group = str(place) if by == "segment" else rows
    return 1 if by == "position" else int(encoding.layout.mask(group)[0].sum())


def _present(encoding: Encoding) -> tuple[str, ...]:
    """The segments of a prompt, each image apart."""
    tokens = encoding.layout
    names = {"image": tuple(f"image[{i}]" for i in range(len(tokens.images[0])))}
    found = [name for segment in SEGMENTS for name in names.get(segment, (segment,))]
    return tuple(name for name in found if tokens.mask(name).any())
