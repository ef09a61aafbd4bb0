"""From prompts and images to ids whose every token is told."""

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from vsink_interp.tokens.layout import CODE

A, B, C = (tiny.image(i) for i in range(3))


def words(encoding, group, sample=0):
    mask = encoding.layout.mask(group)[sample]
    ids = encoding.inputs["input_ids"][sample][mask].tolist()
    return " ".join(tiny.tokenizer().convert_ids_to_tokens(ids))


@pytest.mark.parametrize("prompt", tiny.PROMPTS)
def test_each_token_is_what_its_id_says(prompt):
    encoding = tiny.encode(prompt)
    ids, layout = encoding.inputs["input_ids"], encoding.layout
    assert layout.segments.shape == ids.shape
    assert torch.equal(layout.mask("image"), ids == 4)
    assert torch.equal(layout.mask("bos"), ids == 1)
    assert (layout.image_index >= 0).equal(ids == 4)
    assert words(encoding, "system") == "user :"
    assert words(encoding, "role") == "user : assistant :"
    assert words(encoding, "query").endswith("assistant :")


def test_images_come_first_unless_the_prompt_places_them():
    first = tiny.lmm().encode([A, B], "count the red disc")
    assert str(first.layout) == (
        "bos[1] system[2] image[3x3=9] image[3x3=9] query[6] generated[...]"
    )
    placed = tiny.lmm().encode([A, B], "count <image> the red <image> disc")
    assert str(placed.layout) == (
        "bos[1] system[2] query[1] image[3x3=9] query[2] image[3x3=9] query[3] generated[...]"
    )
    assert words(placed, "query") == "count the red disc assistant :"
    assert words(placed, "image[1]") == " ".join(["<image>"] * 9)


def test_text_alone_has_no_image():
    encoding = tiny.lmm().encode(None, "count")
    assert "pixel_values" not in encoding.inputs
    assert not encoding.layout.mask("image").any()
    assert encoding.images == ((),)


@pytest.mark.parametrize(
    "prompt",
    ["user", "user : what", "assistant : count", "assistant :", ":", "a", "use", "user : user :"],
)  # fmt: skip
def test_a_prompt_that_repeats_words_of_the_template_is_still_the_users(prompt):
    encoding = tiny.lmm().encode(A, prompt)
    assert words(encoding, "system") == "user :"
    own = " ".join(
        tiny.tokenizer().convert_ids_to_tokens(tiny.tokenizer()(prompt)["input_ids"][1:])
    )
    assert words(encoding, "query") == f"{own} assistant :"
    assert words(encoding, "role") == "user : assistant :"


def test_a_batch_is_padded_on_the_left_and_laid_out_sample_by_sample():
    together = tiny.batch()
    width = together.layout.length
    for i, prompt in enumerate(tiny.PROMPTS):
        alone = tiny.encode(prompt)
        pad = width - alone.layout.length
        assert (together.layout.segments[i, :pad] == 0).all()
        for name in ("segments", "image_index", "roles"):
            got, want = getattr(together.layout, name)[i, pad:], getattr(alone.layout, name)[0]
            assert torch.equal(got, want)
        assert torch.equal(together.inputs["input_ids"][i, pad:], alone.inputs["input_ids"][0])
        assert together.prompts[i] == alone.prompts[0]
    assert together.batched
    assert not tiny.encode().batched
    assert len(together.inputs["pixel_values"]) == 5


def test_one_image_serves_a_batch_of_prompts():
    encoding = tiny.lmm().encode(A, ["count", "what is this"])
    assert [len(row) for row in encoding.images] == [1, 1]
    assert torch.equal(*encoding.inputs["pixel_values"])


def test_a_finished_prompt_is_taken_as_it_is():
    chat = tiny.encode()
    raw = tiny.lmm().encode(A, chat.prompts[0], chat=False)
    assert torch.equal(raw.inputs["input_ids"], chat.inputs["input_ids"])
    assert torch.equal(raw.layout.segments, chat.layout.segments)
    bare = tiny.lmm().encode(None, "count the disc", chat=False)
    assert words(bare, "query") == "count the disc"
    assert not bare.layout.roles.any()


def test_a_processor_without_template_gets_the_familys():
    lmm = vi.LMM(tiny.lmm().hf_model, tiny.processor(template=None))
    encoding = lmm.encode(A, "count the disc")
    assert encoding.prompts[0].startswith("USER: <image>")
    assert words(encoding, "query") == "count the disc assistant :"
    assert words(encoding, "role") == "user : assistant :"
    assert encoding.layout.mask("image").sum() == 9


def test_a_system_prompt_of_the_template_is_system():
    template = "you are a helpful friend of every one " + tiny.TEMPLATE
    lmm = vi.LMM(tiny.lmm().hf_model, tiny.processor(template=template))
    encoding = lmm.encode(A, "you are a friend")
    assert words(encoding, "system") == "you are a helpful friend of every one user :"
    assert words(encoding, "query") == "you are a friend assistant :"


@pytest.mark.parametrize(
    ("image", "prompt", "why"),
    [
        (A, "", "the prompt is empty"),
        (A, "  \n", "the prompt is empty"),
        (A, ["count", " "], "the prompt is empty"),
        (A, [], "a prompt is a string"),
        (A, [3], "a prompt is a string"),
        (A, 3, "a prompt is a string"),
        (None, "what is <image>", "1 <image> for 0 images"),
        ([A, B], "compare <image> with this", "1 <image> for 2 images"),
        (A, "compare <image> with <image>", "2 <image> for 1 images"),
        ([A], ["count", "what"], "1 images for 2 prompts"),
        ([A, B, C], ["count", "what"], "3 images for 2 prompts"),
        ([A, [B, C]], ["count", "what <image>"], "1 <image> for 2 images"),
        ("/none.png", "count", "there is no image at '/none.png'"),
    ],
)
def test_what_cannot_be_asked_is_refused(image, prompt, why):
    with pytest.raises(vi.InputError, match=why):
        tiny.lmm().encode(image, prompt)


def test_a_finished_prompt_must_place_its_images():
    with pytest.raises(vi.InputError, match="must hold <image>"):
        tiny.lmm().encode(A, "count", chat=False)


def test_a_processor_that_disagrees_about_image_tokens_is_refused():
    wrong = tiny.processor()
    wrong.num_additional_image_tokens = 3
    with pytest.raises(vi.InputError, match=r"do not match|image tokens"):
        vi.LMM(tiny.lmm().hf_model, wrong).encode(A, "count")


def test_codes_are_those_of_the_segments():
    codes = {"bos": 1, "system": 2, "image": 3, "query": 4, "generated": 5, "history": 6}
    assert codes == CODE


def test_an_answer_as_text_is_read_with_its_prompt():
    """Against a prompt in its final form that ends in the answer."""
    encoding = tiny.encode()
    ids = torch.tensor([tiny.tokenizer().convert_tokens_to_ids(["a", "red", "disc"])])
    answered = encoding.with_answer("a red disc")
    assert torch.equal(
        answered.inputs["input_ids"], torch.cat([encoding.inputs["input_ids"], ids], 1)
    )
    assert int(answered.layout.mask("generated").sum()) == 3
    whole = tiny.processor()(
        text=[encoding.prompts[0] + " a red disc"], images=[tiny.image(0)], return_tensors="pt"
    )
    with torch.no_grad():
        wanted = tiny.lmm().hf_model(**whole).logits
    assert torch.equal(tiny.lmm().run(answered).logits, wanted)
    both = tiny.batch("one image", "short").with_answer(["red disc", "two squares"])
    assert both.layout.mask("generated").sum(-1).tolist() == [2, 2]
    ragged = tiny.batch("one image", "short").with_answer(["red disc on", "two"])
    assert ragged.layout.mask("generated").sum(-1).tolist() == [3, 1]
    logits = tiny.lmm().run(ragged).logits
    for sample, (name, text) in enumerate([("one image", "red disc on"), ("short", "two")]):
        alone = tiny.lmm().run(tiny.encode(name).with_answer(text)).logits[0]
        real = ragged.inputs["attention_mask"][sample].bool()
        assert float((logits[sample][real] - alone).abs().max()) < 1e-4
    for wrong in ("", ["red", "blue"], []):
        with pytest.raises(vi.InputError, match="answers"):
            encoding.with_answer(wrong)
