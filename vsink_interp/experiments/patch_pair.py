"""A clean and a corrupted run, and the places at which activations pass from one to the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final, get_args

from ..edits import Patch
from ..errors import InputError, NotationError, unknown
from ..graph import find_hook
from ..model import LMM, Encoding, ImageInput, token_id
from ..probes import Activation
from ..results import Run
from ..tokens import NAMES, SEGMENTS

ImagePrompt: TypeAlias = tuple[ImageInput | None, str]
"""An image, or None, and the prompt about it."""

By: TypeAlias = Literal["segment", "head", "position"]
"""What is patched at one layer at a time."""

HEADED = ("head", "kv_head")


def refuse_odd(by: str, hook: str, segments: Sequence[str] | None, rows: str) -> None:
    """Refuse arguments that do not go together.

    **Raises:** `InputError` or `NotationError` saying which and what would do.
    """
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
class Pair:
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
    ) -> "Pair":
        """Run both inputs; `tokens` are by default the answers to the clean and to the corrupted.

        **Raises:** `InputError` if there is no difference to recover.
        """
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
        """The two tokens, as text."""
        one, other = (self.lmm.tokenizer.decode([id_]).strip() for id_ in self.ids)
        return one, other

    def difference(self, run: Run) -> float:
        """The difference of their logits in the last row of a run."""
        one, other = self.ids
        return float(run.logits[0, -1, one] - run.logits[0, -1, other])


def places_of(
    pair: Pair, by: By, segments: Sequence[str] | None, rows: str
) -> tuple[str | int, ...]:
    """What is patched one at a time: groups of tokens, heads or positions."""
    if by == "segment":
        return _present(pair.encoding) if segments is None else tuple(segments)
    if by == "position":
        return tuple(pair.encoding.layout.mask(rows)[0].nonzero().flatten().tolist())
    record = pair.source[Activation]
    axis = next(axis for axis in HEADED if axis in record.axes)
    return tuple(range(record.values.shape[record.axis(axis)]))


def patch_at(
    by: By, hook: str, source: Run, layers: tuple[int, ...], place: str | int, rows: str
) -> Patch:
    """The patch of one place, at one layer or a window of them."""
    if by == "segment":
        return Patch(hook, source, layers, rows=str(place))
    if by == "head":
        return Patch(hook, source, layers, rows=rows, heads=[int(place)])
    return Patch(hook, source, layers, rows=rows, positions=int(place))


def name_of(pair: Pair, by: By, place: str | int) -> str:
    """A position with its token: an image token by its number in the image."""
    if by != "position":
        return str(place)
    layout, at = pair.encoding.layout, int(place)
    image = int(layout.image_index[0, at])
    if image >= 0:
        first = int((layout.image_index[0] == image).nonzero()[0])
        return f"{at} {NAMES[layout.segments[0, at]]}[{image}] {at - first}"
    return f"{at} {pair.lmm.tokenizer.decode([int(pair.encoding.inputs['input_ids'][0, at])])}"


def size_of(encoding: Encoding, by: By, place: str | int, rows: str) -> int:
    """How many tokens are patched at a place."""
    group = str(place) if by == "segment" else rows
    return 1 if by == "position" else int(encoding.layout.mask(group)[0].sum())


def _present(encoding: Encoding) -> tuple[str, ...]:
    """The segments of a prompt, each image apart."""
    tokens = encoding.layout
    names = {"image": tuple(f"image[{i}]" for i in range(len(tokens.images[0])))}
    found = [name for segment in SEGMENTS for name in names.get(segment, (segment,))]
    return tuple(name for name in found if tokens.mask(name).any())
