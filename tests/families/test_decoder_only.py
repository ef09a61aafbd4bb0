"""Models whose image tokens come from no usual tower: only their decoder is open."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import transformers
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

import vsink_interp as vi
from tests.families import plain
from tests.families.decoders import opened
from tests.families.test_families import NEAR, PROMPTS, SINKS, apart, image, logits
from vsink_interp.families import infer
from vsink_interp.families.processing import Composed
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


class Stand(Composed):
    """Stands for a processor that needs torchvision; an image token is `<image>`, with id 4."""

    image_token = "<image>"

    def __call__(self, text, images=None, **more):
        made = super().__call__(text, images, **more)
        made.pop("num_patches", None)
        if made.pop("num_soft_tokens_per_image", None) is not None:
            made["mm_token_type_ids"] = (made["input_ids"] == 4).int()
        return made


def gemma4(**text):
    """A tiny Gemma 4 with heads of two widths and an embedding in every layer."""
    words = tokenizer("<image>", "<boi>", "<eoi>", "<video>", "<audio>")
    sizes = {"patch_size": 4, "pooling_kernel_size": 2}
    kinds = ["sliding_attention", "full_attention"] * 2
    own = {
        "head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 8,
        "vocab_size": len(words), "vocab_size_per_layer_input": len(words),
        "layer_types": kinds, "sliding_window": 200,
    }  # fmt: skip
    tower = {"num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 64}
    config = fill(
        transformers.Gemma4Config,
        text_config={**TEXT, **own, **text},
        vision_config={**VISION, **sizes, **tower},
        audio_config=None,
        tie_word_embeddings=False,
        **{
            f"{name}_token_id": 4 + at
            for at, name in enumerate("image boi eoi video audio".split())
        },
    )
    images = fill(Gemma4ImageProcessorPil, max_soft_tokens=70, **sizes)

    def expand(inputs, number):
        return f"<boi>{'<image>' * int(inputs['num_soft_tokens_per_image'][number])}<eoi>"

    return config, Stand(images, words, expand, "<image>")


def llama4():
    """A tiny Llama 4: chunks of six tokens, and every other layer without positions."""
    words = tokenizer("<image>", "<start>", "<end>")
    kinds = ["chunked_attention", "full_attention"] * 2
    text = {
        "intermediate_size_mlp": 96, "head_dim": 16, "num_local_experts": 2, "layer_types": kinds,
        "attention_chunk_size": 6, "no_rope_layers": [1, 0, 1, 0], "interleave_moe_layer_step": 2,
    }  # fmt: skip
    tower = {
        "image_size": 56, "patch_size": 14, "vision_output_dim": 32, "projector_input_dim": 32,
        "projector_output_dim": 32, "intermediate_size": 128,
    }  # fmt: skip
    config = fill(
        transformers.Llama4Config,
        text_config={**TEXT, **text, "vocab_size": len(words)},
        vision_config={**VISION, **tower},
        image_token_index=4,
    )
    square = {"height": 56, "width": 56}
    images = fill(CLIPImageProcessorPil, size=square, do_center_crop=False)
    return config, Stand(images, words, lambda *_: f"<start>{'<image>' * 4}<end>", "<image>")


def cohere2_vision():
    """A tiny Cohere2 Vision; its official processor cuts images by another rule than this one."""
    words = tokenizer("<image>", "<start>", "<end>", "<line>")
    kinds = ["sliding_attention", "full_attention"] * 2
    text = {"layer_types": kinds, "sliding_window": 8, "model_type": "cohere2"}
    tower = {"image_size": 56, "patch_size": 14, "vision_use_head": False}
    config = fill(
        transformers.Cohere2VisionConfig,
        text_config={**TEXT, **text, "vocab_size": len(words)},
        vision_config={**VISION, **tower, "model_type": "siglip_vision_model"},
        image_token_id=4,
        alignment_intermediate_size=64,
        tie_word_embeddings=False,
    )
    square = {"height": 56, "width": 56}
    images = fill(GotOcr2ImageProcessorPil, size=square, max_patches=4, crop_to_patches=True)

    def expand(inputs, number):
        tiles = int(inputs["num_patches"][number])
        return f"<start>{('<image>' * 4 + '<line>') * tiles}<end>"

    return config, Stand(images, words, expand, "<image>")


KINDS = {
    "Llama 4": llama4,
    "Cohere2 Vision": cohere2_vision,
    "Gemma 4": gemma4,
    "Gemma 4, keys shared": lambda: gemma4(num_kv_shared_layers=2),
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
    """No bit is changed by looking; the pattern is theirs; a knockout is a cut in their mask."""
    model = lmm(kind)
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


def _rows_of_the_last_layer(model):
    """How many rows its attention computes in the prefill of plain generation."""
    seen, encoding = [], model.encode(*PROMPTS["one"])
    attention = model.hooked.layers[-1].self_attn
    handle = attention.register_forward_hook(lambda *seen_by: seen.append(seen_by[-1][0].shape[1]))
    model.hf_model.generate(**encoding.inputs, max_new_tokens=1)
    handle.remove()
    return seen[0]


def test_a_record_of_layers_that_compute_other_rows_is_refused():
    """Where layers share keys, generation computes the last row of the prompt alone in them."""
    model, probe = lmm("Gemma 4, keys shared"), vi.probes.Activation("attn.hook_pattern")
    if _rows_of_the_last_layer(model) > 1:
        pytest.skip("this release of transformers computes every row in every layer")
    with pytest.raises(vi.CapabilityError, match=r"layers \[2, 3\] computed other rows"):
        model.generate(*PROMPTS["one"], graph=probe, max_new_tokens=2)
    late = replace(probe, layers="2:")
    run = model.generate(*PROMPTS["one"], graph=late, max_new_tokens=3)
    assert run[late].labels("query") == tuple(
        range(run.layout.prompt_length - 1, run.layout.prompt_length + 2)
    )


def test_rows_that_see_ahead_are_refused():
    """A Gemma 4 that says "vision" lets image tokens see all of their image in some layers."""
    config, processor = gemma4(use_bidirectional_attention="vision")
    with pytest.raises(vi.CapabilityError, match=r"in layer 0 .* rows attend to tokens that"):
        vi.LMM(build(config, "eager"), processor)
