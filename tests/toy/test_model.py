"""The files load like any published LLaVA, fit the size, and the packaged model answers."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from vsink_interp.toy import scene, weights_dir
from vsink_interp.toy.answers import eager
from vsink_interp.toy.data import pixel_values
from vsink_interp.toy.language import words
from vsink_interp.toy.measure import accuracy_figures, caption_figures, subject
from vsink_interp.toy.model import build_model, build_processor, save


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(weights_dir)


@pytest.fixture(scope="module")
def model():
    return LlavaForConditionalGeneration.from_pretrained(weights_dir, dtype=torch.float32)


def chat(text, image=None):
    part = {"type": "image"} if image is None else {"type": "image", "image": image}
    return [{"role": "user", "content": [part, {"type": "text", "text": text}]}]


def test_files_fit():
    files = [path for path in weights_dir.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16 * 2**20
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in files}


def test_auto_classes_load_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = AutoProcessor.from_pretrained(weights_dir)
    assert isinstance(made, LlavaProcessor)


def test_prompt_reads_as_documented(processor):
    one = scene(0)
    text = processor.apply_chat_template(chat("Describe the image"), add_generation_prompt=True)
    made = processor(images=one.image, text=text, return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(made["input_ids"][0])
    asked = ["describe", "the", "image", "assistant", ":"]
    assert tokens == ["<s>", "user", ":", *["<image>"] * 64, *asked]
    assert torch.equal(made["pixel_values"], pixel_values([one]))
    whole = processor.apply_chat_template(
        chat("describe the image", one.image),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert torch.equal(whole["input_ids"], made["input_ids"])


def test_any_image_size_is_taken(processor):
    image = Image.fromarray(np.zeros((50, 301, 3), np.uint8))
    made = processor(images=image, text="user : <image> assistant :", return_tensors="pt")
    assert made["pixel_values"].shape == (1, 3, 64, 64)


def test_tokenizer_is_word_level_with_offsets(processor):
    made = processor.tokenizer("Is the zebra red?", return_offsets_mapping=True)
    tokens = processor.tokenizer.convert_ids_to_tokens(made["input_ids"])
    assert tokens == ["<s>", "is", "the", "<unk>", "red", "?"]
    assert made["offset_mapping"][3] == (7, 12)
    assert processor.tokenizer.padding_side == "left"
    assert processor.tokenizer.unk_token_id not in processor.tokenizer(list(words())).input_ids
    for seed in range(50):
        ids = processor.tokenizer(scene(seed).caption).input_ids
        assert processor.decode(ids, skip_special_tokens=True) == scene(seed).caption


def test_saved_files_round_trip(tmp_path):
    made = build_model(seed=3)
    save(made, tmp_path)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    for name, value in made.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    again = AutoProcessor.from_pretrained(tmp_path)
    text = "user : <image> what is the background? assistant :"
    image = scene(1).image
    first, second = (
        p(images=image, text=text, return_tensors="pt") for p in (again, build_processor())
    )
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert not torch.equal(
        build_model(seed=4).state_dict()["lm_head.weight"], made.state_dict()["lm_head.weight"]
    )


def test_plain_generate_stops_by_itself(model, processor):
    text = processor.apply_chat_template(chat("describe the image"), add_generation_prompt=True)
    made = processor(images=scene(0).image, text=text, return_tensors="pt")
    out = model.generate(**made)
    assert out[0, -1] == processor.tokenizer.eos_token_id
    assert out.shape[1] - made["input_ids"].shape[1] < model.generation_config.max_new_tokens
    told = processor.decode(out[0, made["input_ids"].shape[1] :], skip_special_tokens=True)
    assert told.endswith(".")


def test_packaged_weights_answer(model, processor):
    what = subject(eager(model), processor.tokenizer, [scene(seed) for seed in range(700, 740)])
    answers = accuracy_figures(what)["accuracy"]
    assert answers["yes_no"] >= 0.85, answers
    assert answers["where"] >= 0.75, answers
    assert caption_figures(what)["object_f1"] >= 0.85
