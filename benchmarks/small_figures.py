"""Figures of the small LMM on held-out scenes, with plain tensors: for `small_card.py`.

All run on the merged model's own weights; answers are teacher-forced in one pass a scene, under the
masks of `vsink_interp.small.packing`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

import vsink_interp as vi
from vsink_interp.kernels import sink_value
from vsink_interp.small.align import ANCHOR_STD, WORDS
from vsink_interp.small.decoder import Decoder
from vsink_interp.small.features import Statistics, patch_features, pixel_values
from vsink_interp.small.lessons import embedded
from vsink_interp.small.packing import Packed, Writer, by_kind
from vsink_interp.small.parts import language_config, language_file, language_weights
from vsink_interp.small.scenes import photo_scene, photographs
from vsink_interp.toy.data import free_patches, patch_words
from vsink_interp.toy.language import (
    COLORS,
    COLUMNS,
    DESCRIBE,
    ROWS,
    SHAPES,
    YES_NO_KINDS,
    object_f1,
    parse_objects,
)  # fmt: skip

FIRST = 100_000
"""The first seed: below those of training, above those that examples and tests use."""
PROSE = (
    "The library opened early on Saturdays, and by nine o'clock most of the tables were taken. "
    "Students spread their notes across the wood, an old man read yesterday's newspaper from the "
    "first page to the last, and two children argued in whispers about which book to borrow. "
    "Nobody minded the noise of the rain against the tall windows; it made the room feel warmer "
    "than it was.",
    "Iron rusts because it reacts with oxygen and water. The reaction is slow in dry air and much "
    "faster near the sea, where salt helps electrons to move through the film of moisture on the "
    "metal. Paint and grease keep the water away. Zinc does more: it gives up its own electrons "
    "first, so that the iron beneath it stays whole even where the coating is scratched.",
    "The council voted on Tuesday evening to keep the night bus to the northern villages for "
    "another year. Three members had asked for a smaller service, since fewer than twenty people "
    "use it on most nights. Nurses from the hospital came to the meeting and said that without it "
    "they would have to walk home along the main road after the late shift.",
    '"You said that you would call," Anna said. He put his coat over the chair and looked for '
    "something to say. The truth was that he had forgotten, and that he had remembered at two in "
    'the morning, when it was too late. "I know," he said. "I am sorry. Is there any tea left?" '
    "She pushed the pot across the table without looking up.",
)
"""Four paragraphs of English, written for this."""


@dataclass(frozen=True, eq=False)
class Held:
    """Held-out scenes and what the model makes of their images."""

    lmm: vi.LMM
    decoder: Decoder
    writer: Writer
    scenes: list
    image: torch.Tensor
    free: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, lmm, count, *, plain=False):
        """The first `count` held-out scenes, on photographs or plain."""
        seeds = range(FIRST, FIRST + count)
        photos = photographs()
        scenes = [
            vi.toy.scene(seed) if plain else photo_scene(seed, photos, always=True)
            for seed in seeds
        ]
        made = []
        for at in range(0, count, 16):
            pixels = pixel_values([one.image for one in scenes[at : at + 16]])
            made += list(lmm.hf_model.model.get_image_features(pixels).pooler_output)
        decoder = Decoder.of(lmm.hf_model.model.language_model)
        writer = Writer(lmm.tokenizer)
        return cls(lmm, decoder, writer, scenes, torch.stack(made), free_patches(scenes))

    def part(self, count):
        """The first of them."""
        return replace(
            self, scenes=self.scenes[:count], image=self.image[:count], free=self.free[:count]
        )

    @torch.no_grad()
    def told(self, asked, mask: Callable[[Packed, int], torch.Tensor] | None = None):
        """For each scene its turns, and for each turn log-probability and success of each word.

        **Arguments:**

        - `asked`: the questions of each scene.
        - `mask`: given a pack and the place of its scene, which keys each row sees.
        """
        found = []
        for number, questions in enumerate(asked):
            turns = [self.writer.turn(question, closed=False) for question in questions]
            packed = self.writer.pack([turns])
            rows = embedded(self.decoder.model, packed, self.image[number : number + 1])
            seen = packed.visible() if mask is None else mask(packed, number)
            final = self.decoder(rows, packed.position, seen)
            at = packed.labels >= 0
            table = self.decoder.model.embed_tokens.weight
            scores = F.linear(final[at], table).log_softmax(-1)
            wanted = packed.labels[at]
            words = scores.gather(1, wanted[:, None])[:, 0], scores.argmax(-1) == wanted
            sizes = [len(turn.answer) for turn in turns]
            found.append(list(zip(turns, *(part.split(sizes) for part in words), strict=True)))
        return found


def answers(held):
    """Accuracy by kind of question, and the mean over the kinds answered by yes or no."""
    told = held.told([one.questions for one in held.scenes])
    turns = [turn for scene in told for turn, *_ in scene]
    right = [bool(good.all()) for scene in told for *_, good in scene]
    found = dict(by_kind(turns, right))
    return found | {"yes/no": float(np.mean([found[kind] for kind in YES_NO_KINDS]))}


def captions(held, graph=None, *, batch=8):
    """Mean object F1 of generated captions."""
    scores = []
    for at in range(0, len(held.scenes), batch):
        scenes = held.scenes[at : at + batch]
        run = held.lmm.generate(
            [one.image for one in scenes], [DESCRIBE] * len(scenes), graph, max_new_tokens=40
        )
        for text, one in zip(run.text, scenes, strict=True):
            scores.append(object_f1(parse_objects(text), parse_objects(one.caption)))
    return float(np.mean(scores))


@torch.no_grad()
def phi(held):
    """phi of `<|im_start|>` and the image tokens entering each layer: `[layer scene token]`."""
    found = []
    for image in held.image.split(8):
        packed = held.writer.pack([()] * len(image))
        rows = embedded(held.decoder.model, packed, image)
        states = held.decoder.states(rows, packed.position, packed.visible())[:-1]
        found.append(torch.stack([sink_value(resid, held.lmm.sinks.dims) for resid in states]))
    return torch.cat(found, 1)


@torch.no_grad()
def projections(held, folder, seeds=(0, 1, 2, 3)):
    """Sinks a scene entering layers 6, 15 and 22, with the anchors of several random projections.

    **Arguments:**

    - `folder`: of a training run, for its statistics of features.
    """
    state = torch.load(folder / "aligned.pt", weights_only=True)["statistics"]
    features = patch_features(held.lmm.hf_model.model.vision_tower, held.scenes)
    found = {}
    for seed in seeds:
        anchors = Statistics(**state).anchors(features, seed, ANCHOR_STD, held.image.shape[-1])
        image = torch.where(held.free[..., None], anchors, held.image)
        is_sink = phi(replace(held, image=image))[..., 1:] >= held.lmm.sinks.tau
        found[str(seed)] = [float(is_sink[layer].float().sum(-1).mean()) for layer in (6, 15, 22)]
    return found


def sinks(held, values):
    """Sinks a scene, scenes with one, and their share on background, by layer; the histogram."""
    is_sink = values[..., 1:] >= held.lmm.sinks.tau
    on_ground = (is_sink & held.free).sum((1, 2)) / is_sink.sum((1, 2)).clamp(min=1)
    middle = values[22, :, 1:].flatten()
    counts, edges = np.histogram(middle.numpy(), bins=12, range=(0, 24))
    return {
        "dims": list(held.lmm.sinks.dims),
        "tau": round(held.lmm.sinks.tau, 2),
        "a scene": is_sink.float().sum(-1).mean(1).tolist(),
        "scenes with one": is_sink.any(-1).float().mean(1).tolist(),
        "on background": on_ground.tolist(),
        "first token": values[..., 0].mean(1).tolist(),
        "background": float(held.free.float().mean()),
        "patches used at layer 15": int(is_sink[15].any(0).sum()),
        "histogram at layer 22": [counts.tolist(), edges.tolist()],
    }


@torch.no_grad()
def nearest_words(held):
    """Which word embedding of its kind an object's centre patch lies nearest to: share right."""
    table = held.decoder.model.embed_tokens.weight
    vectors = torch.stack([table[held.writer.ids(f" {name}")[0]] for name in WORDS])
    words = patch_words(held.scenes, {name: i for i, name in enumerate(WORDS)})
    centred = words[..., 3] >= 0
    parts = {"row": (0, ROWS), "column": (1, COLUMNS), "color": (2, COLORS), "shape": (3, SHAPES)}
    found = {}
    for kind, (at, choices) in parts.items():
        places = torch.tensor([WORDS.index(choice) for choice in choices])
        options = vectors[places] - vectors[places].mean(0)
        near = (held.image[centred] @ options.T - options.square().sum(-1) / 2).argmax(-1)
        found[kind] = float((places[near] == words[..., at][centred]).float().mean())
    return found


@torch.no_grad()
def perplexity(held):
    """Of four paragraphs of English without an image: this model's, and SmolLM2's as it comes."""
    file = language_file()
    frozen = type(held.decoder.model)(language_config(file))
    frozen.load_state_dict(language_weights(file))
    found = []
    for model in (held.decoder.model, frozen):
        losses = []
        for text in PROSE:
            ids = torch.tensor([[held.writer.start, *held.writer.ids(text)]])
            final = model(ids).last_hidden_state[:, 1:-1]
            logits = F.linear(final, model.embed_tokens.weight)
            losses.append(F.cross_entropy(logits[0], ids[0, 2:], reduction="none"))
        found.append(float(torch.cat(losses).mean().exp()))
    return found
