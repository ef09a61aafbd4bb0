"""Processors without torchvision: the official class, given its image processor and tokenizer."""

from importlib.util import find_spec

import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLProcessor, Qwen2VLProcessor

import vsink_interp as vi
from tests.families.test_families import image, lmm
from vsink_interp.families import FAMILIES, load_processor
from vsink_interp.families.mistral3 import rows_of_patches
from vsink_interp.families.processing import without_video

without_torchvision = pytest.mark.skipif(
    find_spec("torchvision") is not None, reason="torchvision is installed: nothing to compose"
)


@without_torchvision
@pytest.mark.parametrize(
    ("name", "official"), [("Qwen2-VL", Qwen2VLProcessor), ("Qwen2.5-VL", Qwen2_5_VLProcessor)]
)
def test_a_saved_model_opens_without_torchvision(name, official, tmp_path):
    made = lmm(name)
    made.hf_model.save_pretrained(tmp_path)
    made.processor.image_processor.save_pretrained(tmp_path)
    made.processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ImportError, match="Torchvision"):
        official.from_pretrained(tmp_path)
    opened = vi.LMM.from_pretrained(tmp_path)
    assert isinstance(opened.processor, official)
    given = [image(0, (150, 90)), image(1)]
    here, there = (
        model.encode(given, "compare <image> with <image> and count") for model in (made, opened)
    )
    assert here.inputs.keys() == there.inputs.keys()
    for key, value in here.inputs.items():
        assert torch.equal(value, there.inputs[key]), key
    assert torch.equal(made.run(here).logits, opened.run(there).logits)


@without_torchvision
@pytest.mark.parametrize("name", ["InternVL", "LLaVA-OneVision", "Qwen2-VL", "Qwen3-VL"])
def test_a_processor_that_was_saved_without_torchvision_opens_again(name, tmp_path):
    made = lmm(name)
    made.processor.save_pretrained(tmp_path)
    made.hf_model.config.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="video processor"):
        AutoProcessor.from_pretrained(tmp_path)
    again = load_processor(tmp_path)
    text, images = [made.hooked.family.word + " count"], [image(0, (150, 90))]
    there, here = (
        it(text=text, images=images, return_tensors="pt") for it in (again, made.processor)
    )
    assert torch.equal(there["input_ids"], here["input_ids"])
    assert torch.equal(there["pixel_values"], here["pixel_values"])


def test_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load_processor(tmp_path / "nowhere")


def test_the_code_that_writes_placeholders_is_the_official_one():
    composed = without_video(Qwen2VLProcessor)
    for method in ("__call__", "replace_image_token", "get_text_with_replacements"):
        assert getattr(composed, method) is getattr(Qwen2VLProcessor, method)
    assert composed.get_attributes() == ["image_processor", "tokenizer"]


@without_torchvision
def test_a_processor_that_cannot_be_composed_names_the_extra(tmp_path):
    made = lmm("SmolVLM")
    made.hf_model.config.save_pretrained(tmp_path)
    made.processor.image_processor.save_pretrained(tmp_path)
    made.processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(vi.CapabilityError, match=r"pip install 'vsink-interp\[vision\]'"):
        load_processor(tmp_path)


def test_smolvlm_writes_images_as_idefics3_does():
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    processor = next(f for f in FAMILIES if f.name == "SmolVLM").tiny()[1]
    for rows, columns in ((0, 0), (2, 3)):
        theirs = get_image_prompt_string(
            rows, columns, 4, "<fake_token_around_image>", "<image>", "<global-img>"
        )
        sizes = {"rows": [[rows]], "cols": [[columns]]}
        assert processor.replace_image_token(sizes, 0) == theirs


def test_pixtral_images_end_each_row_with_a_mark():
    """As `PixtralProcessor.replace_image_token`, whose module needs torchvision to be imported."""
    row = ["[IMG]"] * 3 + ["[IMG_BREAK]"]
    theirs = [*row, *row[:-1], "[IMG_END]"]
    assert rows_of_patches(28)({"image_sizes": [(56, 84)]}, 0) == "".join(theirs)
