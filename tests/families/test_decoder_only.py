"""Models whose image tokens come from no usual tower: only their decoder is open."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import transformers
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

import vsink_interp as vi
from tests.families import plain
from tests.families.decoders import opened
from tests.families.test_families import NEAR, PROMPTS, SINKS, apart, image, logits
from vsink_interp.families import infer
from vsink_interp.families.tiny import TEXT, VISION, build, fill, tokenizer
from vsink_interp.model.identities import unlike_heads, unlike_logits
from vsink_interp.model.unembedding import readout
from vsink_interp.probes import LogitLens

QFORMER = {"encoder_hidden_size": 32, **VISION}
EMU3 = ("<image>", "<|start|>", "<|end|>", "<|wrap|>", "<|eof|>")


def queries(kind, **processor):
    """A tiny BLIP-2 or InstructBLIP around a LLaMA, with four query tokens."""
    words = tokenizer("<image>")
    config = fill(
        getattr(transformers, f"{kind}Config"),
        text_config={**TEXT, "vocab_size": len(words), "model_type": "llama"},
        vision_config={**VISION, "image_size": 42, "patch_size": 14},
        qformer_config={**QFORMER, "vocab_size": len(words)},
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    images = fill(BlipImageProcessorPil, size={"height": 42, "width": 42})
    official = getattr(transformers, f"{kind}Processor")
    return config, official(images, words, num_query_tokens=4, **processor)


def emu3():
    """A tiny Emu3, which reads images as words of its own."""
    visual = [f"<|visual token {i:06}|>" for i in range(16)]
    names = ("image_token", "boi_token", "eoi_token", "image_wrapper_token", "eof_token")
    words = tokenizer(*EMU3, *visual, "<|extra_200|>", **dict(zip(names, EMU3, strict=True)))
    tower = {
        "codebook_size": 16, "base_channels": 32, "channel_multiplier": [1, 1, 1, 1],
        "num_res_blocks": 1, "hidden_size": 32, "attn_resolutions": [],
    }  # fmt: skip
    config = fill(
        transformers.Emu3Config,
        text_config={**TEXT, "vocab_size": len(words)},
        vq_config=tower,
        vocabulary_map=words.get_vocab(),
    )
    images = fill(transformers.Emu3ImageProcessor, min_pixels=16 * 16, max_pixels=24 * 16)
    return config, transformers.Emu3Processor(images, words)


KINDS = {
    "BLIP-2": lambda: queries("Blip2"),
    "InstructBLIP": lambda: queries("InstructBlip", qformer_tokenizer=tokenizer("<image>")),
    "Emu3": emu3,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


CHECKED = ("InstructBLIP", "Emu3")
"""Those that are opened as a user opens them, with a trial of every hook point."""


@cache
def lmm(kind):
    config, processor = KINDS[kind]()
    model = build(config, "eager")
    known = None if kind in CHECKED else replace(infer(model, processor), inferred=False)
    return vi.LMM(model, processor, sinks=SINKS, family=known, check=False)


@pytest.mark.parametrize("kind", CHECKED)
def test_its_decoder_is_open_and_its_vision_hooks_are_refused_by_name(kind):
    model = lmm(kind)
    assert model.capabilities.inferred
    # Emu3 embeds the words that it makes of an image as well, and so the embedding is refused.
    assert set(model.capabilities.failed) == {"hook_embed"} & {"hook_embed" * (kind == "Emu3")}
    assert {"blocks.{layer}.attn.hook_pattern", "blocks.{layer}.hook_resid_post"} <= set(
        model.hooks
    )
    assert not any(hook.startswith("vision") for hook in model.hooks)
    for hook in ("vision_projector.hook_out", "vision_encoder.blocks.{layer}.hook_resid_pre"):
        with pytest.raises(vi.CapabilityError, match=r"it has no (projector|vision layers) at"):
            model.run(*PROMPTS["one"], vi.probes.Activation(hook))


@every_kind
def test_its_decoder_computes_what_transformers_computes(kind):
    compute_alike(lmm(kind))


def compute_alike(model):
    """No bit is changed by looking; the pattern is theirs; a knockout is a cut in their mask."""
    encoding = model.encode([image(3, (90, 61)), image(4)], ["count", "what is the red disc on ?"])
    ids = encoding.inputs["input_ids"]
    shown = ids == model.hf_model.config.image_token_id
    assert torch.equal(encoding.layout.mask("image"), shown)
    layers = model.layers_with("attn.hook_pattern")
    probe = vi.probes.Activation("attn.hook_pattern", layers)
    run = model.run(encoding, graph=probe)
    with torch.no_grad():
        theirs = model.hf_model(**encoding.inputs, output_attentions=True)
    assert torch.equal(run.logits, theirs.logits)
    own = getattr(theirs, "attentions", None) or theirs.language_model_outputs.attentions
    real = encoding.inputs["attention_mask"].bool()
    for seen, layer in zip(run[probe].values, layers, strict=True):
        assert torch.equal(seen.transpose(1, 2)[real], own[layer].transpose(1, 2)[real])
    with plain.cut(model.hf_model, encoding.layout.mask("query"), shown, layers):
        cut = logits(model.hf_model, encoding)
    edited = model.run(encoding, graph=vi.Knockout("image -> query", layers)).logits
    assert apart(cut[real], theirs.logits[real]) > 0.1
    assert apart(edited[real], cut[real]) < NEAR


@every_kind
def test_words_are_found_behind_the_image_and_a_batch_equals_its_samples(kind):
    model = lmm(kind)
    given = [(image(3, (90, 61)), "count"), (image(4), "what is the red disc on ?")]
    together = model.encode(*map(list, zip(*given, strict=True)))
    for sample, (shown, text) in enumerate(given):
        alone = model.encode(shown, text)
        query = alone.inputs["input_ids"][alone.layout.mask("query & ~separator & ~role")]
        assert model.tokenizer.decode(query).split() == text.split()
        n = query.shape[0]
        assert torch.equal(
            together.layout.mask("query & ~separator & ~role")[sample, -n:],
            alone.layout.mask("query & ~separator & ~role")[0, -n:],
        )
        run, other = (model.generate(each, max_new_tokens=3) for each in (alone, together))
        assert torch.equal(other.generated[sample], run.generated[0])
        assert apart(other.logits[sample], run.logits[0]) < 2 * NEAR
        theirs = model.hf_model.generate(**alone.inputs, max_new_tokens=3)
        assert torch.equal(theirs[:, -3:], run.generated)


@pytest.mark.parametrize("kind", ["BLIP-2", "InstructBLIP"])
def test_query_tokens_are_those_of_the_official_processor_and_no_image_stands_elsewhere(kind):
    model = lmm(kind)
    one = image(3, (90, 61))
    theirs = model.processor(text=["count this"], images=[one], return_tensors="pt")
    ours = model.encode(one, "count this").inputs
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    for shown, text in (([one, one], "<image> <image> count"), (one, "count <image>")):
        with pytest.raises(vi.InputError, match="takes one image with each prompt"):
            model.encode(shown, text)
    with pytest.raises(vi.InputError, match="no prompt without an image"):
        model.encode(None, "count")


def test_a_decoder_of_other_names_opens_and_what_needs_its_final_norm_is_refused():
    """GPT-NeoX calls its attention `attention` and its last norm `final_layer_norm`."""
    model = opened("gpt_neox")
    assert unlike_heads(model) == ""
    model.hooked.unlike_logits = unlike_logits(model)
    for ask in (lambda: model.run(*PROMPTS["one"], LogitLens("query")), lambda: readout(model)):
        with pytest.raises(vi.CapabilityError, match=r"the final norm of .* is not known here"):
            ask()
