"""Processors composed without torchvision, against the official ones with it, from one folder."""

import json

import pytest
import torch
import transformers
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from tests.families.test_families import PROMPTS, TINY, image

MEAN, MOST = 0.05, 13.0
"""How far pixels are apart, in levels of brightness from 0 to 255: PIL and torchvision resize by
kernels of their own, with the largest differences where an edge overshoots."""
UNSCALED = {
    "GLM-4.1V": (84, 56),
    "Gemma 3": (56, 56),
    "InternVL": (56, 56),
    "LLaVA-1.5": (42, 42),
    "Mistral 3": (84, 56),
    "PaliGemma": (42, 42),
    "Qwen2-VL": (84, 56),
    "Qwen2.5-VL": (84, 56),
    "Qwen3-VL": (96, 64),
}
"""Sizes of images that a family takes as they are."""


def save(name, folder):
    """Write a family's tiny processor into a folder as its checkpoints have it."""
    config, ours = TINY[name].tiny()
    config.save_pretrained(folder)
    parts = [ours] if hasattr(ours, "save_pretrained") else [ours.image_processor, ours.tokenizer]
    for part in parts:
        part.save_pretrained(folder)
    kind = VIDEO_PROCESSOR_MAPPING_NAMES.get(config.model_type)
    if kind:
        named = next(iter(kind.values())) if isinstance(kind, dict) else kind
        getattr(transformers, named)().save_pretrained(folder)
    if name == "Mistral 3":
        own = {"patch_size": 14, "spatial_merge_size": 2, "image_token": "[IMG]"}
        (folder / "processor_config.json").write_text(json.dumps(own))
    return ours, getattr(transformers, str(PROCESSOR_MAPPING_NAMES[config.model_type]))


def both(name, folder):
    """Our processor and the official one."""
    pytest.importorskip("torchvision")
    if name == "SmolVLM":
        pytest.importorskip("num2words")
    ours, official = save(name, folder)
    if name == "Gemma 4":  # whose folder would have to hold what it hears with as well
        heard, seen = (
            transformers.Gemma4AudioFeatureExtractor(),
            transformers.Gemma4VideoProcessor(),
        )
        images = transformers.AutoImageProcessor.from_pretrained(folder)
        theirs = official(heard, images, ours.tokenizer, seen)
    else:
        theirs = official.from_pretrained(folder)
    assert not type(theirs.image_processor).__name__.endswith("Pil")
    if name == "Qwen3.5":  # its folder loads the tiny tokenizer as one of Qwen's, with other words
        theirs = official(theirs.image_processor, ours.tokenizer, theirs.video_processor)
    return ours, theirs


def asked(name, processor, shown, text):
    images = [[shown]] if TINY[name].nested else [shown]
    return processor(text=[f"{TINY[name].word} {text}"], images=images, return_tensors="pt")


def levels(processor, values):
    """Pixel values as brightness; patches in rows are scaled by the largest deviation."""
    std = torch.tensor(processor.image_processor.image_std, dtype=torch.float64)
    return 255 * values.double() * (std.max() if values.ndim < 4 else std[:, None, None])


def compare(ours, mine, theirs):
    """How far pixels are apart at most and on average; all else must be equal."""
    assert set(mine) == set(theirs)
    (pixels,) = set(mine) & {"pixel_values", "pixel_values_images"}
    for key in set(mine) - {pixels}:
        assert torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(theirs[key])), key
    here, there = (levels(ours, given[pixels]) for given in (mine, theirs))
    assert here.shape == there.shape
    assert float(here.std()) > 10
    return float((here - there).abs().max()), float((here - there).abs().mean())


@pytest.mark.parametrize("prompt", ["one", "wide", "high"])
@pytest.mark.parametrize("name", TINY)
def test_tokens_and_grids_are_the_official_ones_and_pixels_close(name, prompt, tmp_path):
    ours, theirs = both(name, tmp_path)
    given = [asked(name, processor, *PROMPTS[prompt]) for processor in (ours, theirs)]
    most, mean = compare(ours, *given)
    assert most <= MOST
    assert mean < MEAN


@pytest.mark.parametrize("name", UNSCALED)
def test_only_resizing_makes_a_difference(name, tmp_path):
    ours, theirs = both(name, tmp_path)
    shown = image(5, UNSCALED[name])
    given = [asked(name, processor, shown, "count") for processor in (ours, theirs)]
    assert compare(ours, *given)[0] < 1e-3
