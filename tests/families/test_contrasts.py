"""Contrast in every family: positions and caches of the second pass, against whole passes."""

from dataclasses import replace

import pytest
import torch

from tests.families.test_families import (
    NEAR,
    PROMPTS,
    SHOWN,
    TINY,
    apart,
    batch,
    encoded,
    lmm,
    logits,
)
from vsink_interp.edits import Contrast

PREFIX = "please count"
KINDS = {
    "noise": Contrast("noise", beta=0.0, seed=2),
    "no image": Contrast("none", beta=0.0),
    "prefix": Contrast(prefix=PREFIX, beta=0.0),
}
N = 4
TILED = ("Aya Vision", "Cohere2 Vision", "InternVL", "Llama 4", "Ovis2")
"""Families whose pixels are one row of the tiles of all images."""


def spoiled(name, kind, encoding):
    """What the second pass reads; the noise itself is compared with numpy elsewhere."""
    model, family = lmm(name), TINY[name]
    if kind == "noise":
        grids = encoding.inputs.get("image_grid_thw")
        sizes = None if grids is None else [int(grid.prod()) for grid in grids]
        counts = [len(row) for row in encoding.images]
        key = "pixel_values_images" if name == "Video-LLaVA" else "pixel_values"
        pixels = encoding.inputs[key]
        if name in ("Idefics3", "SmolVLM"):
            alone = [model.encode(image, "count") for image in encoding.images[0]]
            sizes = [one.inputs["pixel_values"].shape[1] for one in alone]
            pixels = KINDS[kind].spoiled(pixels[0], counts, sizes)[None]
        else:
            areas = None
            if name == "Mistral 3":  # images are padded to a common frame
                areas = [(int(y), int(x)) for y, x in encoding.inputs["image_sizes"]]
            if name in TILED:
                alone = [model.encode(image, "count") for image in encoding.images[0]]
                sizes = [len(one.inputs[key]) for one in alone]
            pixels = KINDS[kind].spoiled(pixels, counts, sizes, areas)
        return replace(encoding, inputs={**encoding.inputs, key: pixels})
    (text,), images = encoding.prompts, list(encoding.images[0])
    if kind == "prefix" and family.opening:
        text = text.replace(family.opening, f"{family.opening}{PREFIX} ")
        return model.encode(images, text, chat=False)
    if kind == "prefix":
        return model.encode(images, f"{PREFIX} {text}", chat=False)
    return model.encode(None, text.replace(family.word, "").replace(family.marker, ""), chat=False)


def longer(encoding, answer):
    """Inputs of prompt and answer; whatever runs along the tokens goes on with zeros."""
    inputs, length = dict(encoding.inputs), encoding.layout.length
    for key, value in inputs.items():
        if value.ndim == 2 and value.shape == (1, length) and "pixel" not in key:
            fill = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
            more = fill.get(key, torch.zeros_like(answer)).to(value.dtype)
            inputs[key] = torch.cat([value, more], 1)
        if key == "cross_attention_mask":
            more = value[:, -1:].repeat(1, answer.shape[1], 1, 1)
            inputs[key] = torch.cat([value, more], 1)
    return replace(encoding, inputs=inputs)


def led(model, encoding, answer):
    """The logits of plain transformers along an answer.

    In one whole pass; where the prompt is bidirectional it would see the answer, so there in plain
    generation that may say nothing else.
    """
    if encoding.layout.sight != "prefix":
        return logits(model.hf_model, longer(encoding, answer[:, :-1]))[:, -N:]
    start = encoding.layout.length
    plain = model.hf_model.generate(
        **encoding.inputs,
        max_new_tokens=N,
        prefix_allowed_tokens_fn=lambda sample, ids: [int(answer[sample, len(ids) - start])],
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(plain.logits, 1)


@pytest.mark.parametrize("name", ["Idefics3", "SmolVLM"])
def test_empty_tiles_of_a_batch_get_no_noise(name):
    """The model takes any tile that is not all zero for an image."""
    model, (prompts, together) = lmm(name), batch(name)
    run = model.generate(together, graph=KINDS["noise"], max_new_tokens=N)
    assert (together.inputs["pixel_values"] == 0).flatten(2).all(-1).any(), "none is empty"
    for i, prompt in enumerate(prompts):
        graph = None if prompt == "text" else KINDS["noise"]
        alone = model.generate(encoded(name, prompt), graph=graph, max_new_tokens=N)
        assert torch.equal(run.generated[i], alone.generated[0])
        assert apart(run.logits[i], alone.logits[0]) < 4 * NEAR


RAGGED = ("high", "one", "wide")
"""Images of different sizes: the processor pads their pixels, or cuts them into more tiles."""


@pytest.mark.parametrize("name", SHOWN)
def test_the_noise_of_an_image_does_not_depend_on_its_batch(name):
    model, graph = lmm(name), KINDS["noise"]
    images, texts = zip(*(PROMPTS[prompt] for prompt in RAGGED), strict=True)
    together = model.run(list(images), list(texts), graph)
    plain = model.run(list(images), list(texts))
    for i, prompt in enumerate(RAGGED):
        alone = model.run(encoded(name, prompt), graph=graph)
        assert apart(together.logits[i, -1], alone.logits[0, -1]) < 4 * NEAR, prompt
        assert apart(together.logits[i, -1], plain.logits[i, -1]) > 1e-3


CASES = [
    (name, kind, prompt)
    for name in TINY
    for kind in KINDS
    for prompt in ("one", "two")
    if name in SHOWN or kind == "prefix"
]


@pytest.mark.parametrize(("name", "kind", "prompt"), CASES)
def test_each_step_is_the_difference_of_two_passes(name, kind, prompt):
    if kind == "no image" and not TINY[name].text_alone:
        pytest.skip(f"{name} takes no text alone")
    model, encoding = lmm(name), encoded(name, prompt)
    other = spoiled(name, kind, encoding)
    run = model.generate(encoding, graph=KINDS[kind], max_new_tokens=N)
    first, second = (led(model, e, run.generated) for e in (encoding, other))
    assert apart(run.logits, 2 * first - second) < 4 * NEAR
    assert apart(run.logits, first) > 1e-3
