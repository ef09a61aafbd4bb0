"""Training examples: scenes drawn on the fly, as packs of token ids and arrays of pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from .language import COLUMNS, DESCRIBE, KINDS, NUMBERS, ROWS, Question, SceneObject, ask
from .model import EOS, IMAGE
from .packing import NO_FACTS, Batch, Pack, Turn, collate
from .scenes import PATCH, SIZE, TRAINING_SEED, Scene, scene

_GRID = SIZE // PATCH


@dataclass(frozen=True, eq=False)
class Examples:
    """One training batch; `pixels` is None where scenes are told in words."""

    batch: Batch
    pixels: Float[Tensor, "batch channel height width"] | None
    free: Bool[Tensor, "batch patch"]


def pixel_values(scenes: Sequence[Scene]) -> Float[Tensor, "batch channel height width"]:
    """What the processor makes of the scenes' images, without the processor."""
    images = np.stack([np.asarray(one.image) for one in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def free_patches(scenes: Sequence[Scene]) -> Bool[Tensor, "batch patch"]:
    """The patches without a pixel of any object."""
    return torch.from_numpy(np.stack([~one.patch_masks(_GRID).any(0) for one in scenes]))


def _centre_patch(thing: SceneObject) -> int:
    x, y = (int(value // PATCH) for value in thing.centre)
    return y * _GRID + x


def patch_targets(
    scenes: Sequence[Scene], colors: Sequence[str], shapes: Sequence[str]
) -> tuple[Int[Tensor, "batch patch"], Int[Tensor, "batch patch"]]:
    """Colour and shape index of the object centred in a patch, last = none, -100 = only grazed."""
    color = np.full((len(scenes), _GRID**2), len(colors))
    shape = np.full((len(scenes), _GRID**2), len(shapes))
    for i, one in enumerate(scenes):
        touched = one.patch_masks(_GRID).any(0)
        color[i, touched] = shape[i, touched] = -100
        for thing in one.objects:
            color[i, _centre_patch(thing)] = colors.index(thing.color)
            shape[i, _centre_patch(thing)] = shapes.index(thing.shape)
    return torch.from_numpy(color), torch.from_numpy(shape)


def patch_words(
    scenes: Sequence[Scene], index: Mapping[str, int]
) -> Int[Tensor, "batch patch word"]:
    """For each patch the words that hold of it: place, and background or object (-1 = none)."""
    rows = np.array([min(2, (2 * at + 1) * 3 // (2 * _GRID)) for at in range(_GRID)])
    row, column = np.divmod(np.arange(_GRID**2), _GRID)
    made = np.full((len(scenes), _GRID**2, 4), -1)
    made[..., 0] = np.array([index[word] for word in ROWS])[rows[row]]
    made[..., 1] = np.array([index[word] for word in COLUMNS])[rows[column]]
    for words, one in zip(made, scenes, strict=True):
        words[:, 2] = index[one.background]
        for thing in one.objects:
            words[_centre_patch(thing), 2:] = index[thing.color], index[thing.shape]
    return torch.from_numpy(made)


def told(one: Scene) -> str:
    """The scene in words, places included: what stands for the image in the text stage."""
    listed = " , ".join(f"{thing.name} {thing.place}" for thing in one.objects)
    return f"scene : {listed} on {one.background} ."


def _sources(
    one: Scene, query: Sequence[int], answer: Sequence[int], vocabulary: Mapping[str, int]
) -> tuple[int, ...]:
    """For each answer token the patch that tells it, -1 where it is not one patch.

    In a caption the words of an object come from its patch; the first token of an answer comes
    from the only object that question and answer name by both colour and shape.
    """
    source = [-1] * len(answer)
    named = [
        (vocabulary[thing.color], vocabulary[thing.shape], _centre_patch(thing))
        for thing in one.objects
    ]
    if vocabulary["describe"] == query[0]:
        at = 0
        for color, shape, patch in named:
            at = answer.index(color, at)
            source[at] = source[answer.index(shape, at)] = patch
        return tuple(source)
    said = {*query, *answer}
    patches = [patch for color, shape, patch in named if color in said and shape in said]
    if len(patches) == 1:
        source[0] = patches[0]
    return tuple(source)


def _mentions(one: Scene, query: Sequence[int], vocabulary: Mapping[str, int]) -> tuple[int, ...]:
    """For each query token that ends the name of an object of the scene, the object's patch."""
    named = {
        (vocabulary[thing.color], vocabulary[thing.shape]): _centre_patch(thing)
        for thing in one.objects
    }
    return tuple(named.get(pair, -1) for pair in zip((-1, *query[:-1]), query, strict=True))


def _facts(one: Scene, question: Question) -> tuple[int, ...]:
    """What the answer to a relation or count question follows from, see `packing.FACTS`."""
    said, facts = question.text.rstrip("?").split(), list(NO_FACTS)
    if question.kind == "relation":
        pairs = list(pairwise(said))
        named = {(thing.color, thing.shape): thing.column for thing in one.objects}
        facts[:2] = [named[pair] for pair in pairs if pair in named]
        facts[2] = int("left" in said)
    if question.kind in ("count", "how-many"):
        facts[3] = len(one.objects) - 2
    if question.kind == "count":
        facts[4] = next(NUMBERS.index(word) for word in said if word in NUMBERS) - 1
    return tuple(facts)


def packs(
    tokenizer: PreTrainedTokenizerFast,
    scenes: Sequence[Scene],
    rng: np.random.Generator,
    *,
    questions: int,
    first_weight: float,
    words: bool,
    kinds: Sequence[str] = KINDS,
    repeated: Sequence[str] = (),
    mentions: bool = False,
    whole_answers: bool = False,
) -> list[Pack]:
    """One pack a scene: its caption and some of its questions, in words or for the image."""
    asked = []
    for one in scenes:
        fitting = [question for question in one.questions if question.kind in kinds]
        for n in range(max(map(repeated.count, repeated), default=0)):
            again = ask(rng, one.objects, one.background)
            fitting += [question for question in again if repeated.count(question.kind) > n]
        chosen = [fitting[i] for i in rng.permutation(len(fitting))[:questions]]
        asked.append([Question("caption", DESCRIBE, one.caption), *chosen])
    texts = ["user :", *(told(one) for one in scenes)]
    for chosen in asked:
        for question in chosen:
            texts += [f"{question.text} assistant :", f"{question.answer} {EOS}"]
    vocabulary = tokenizer.get_vocab()
    rows = iter(tokenizer(texts, add_special_tokens=False).input_ids)
    head = (int(tokenizer.bos_token_id), *next(rows))
    image = (tokenizer.get_vocab()[IMAGE],) * _GRID**2
    stories = [tuple(next(rows)) for _ in scenes]
    made = []
    for story, chosen, one in zip(stories, asked, scenes, strict=True):
        turns = []
        for number, question in enumerate(chosen):
            query, answer = tuple(next(rows)), tuple(next(rows))
            source = () if words else _sources(one, query, answer, vocabulary)
            spoken = _mentions(one, query, vocabulary) if mentions and not words else ()
            weight = first_weight if number else 1.0
            rest = weight if whole_answers else 1.0
            if source and number and whole_answers:
                source = (*source[:1] * (len(answer) - 1), -1)
            turns.append(Turn(query, answer, weight, source, spoken, rest, _facts(one, question)))
        made.append(Pack(head, story if words else image, tuple(turns)))
    return made


def draw(
    tokenizer: PreTrainedTokenizerFast,
    number: int,
    size: int,
    *,
    questions: int,
    first_weight: float,
    words: bool,
    kinds: Sequence[str] = KINDS,
    repeated: Sequence[str] = (),
    mentions: bool = False,
    whole_answers: bool = False,
) -> Examples:
    """The training batch of a number: the same number gives the same batch."""
    first = TRAINING_SEED + number * size
    scenes = [scene(seed) for seed in range(first, first + size)]
    made = packs(
        tokenizer,
        scenes,
        np.random.default_rng((number, 7)),
        questions=questions,
        first_weight=first_weight,
        words=words,
        kinds=kinds,
        repeated=repeated,
        mentions=mentions,
        whole_answers=whole_answers,
    )
    pixels = None if words else pixel_values(scenes)
    return Examples(collate(made), pixels, free_patches(scenes))
