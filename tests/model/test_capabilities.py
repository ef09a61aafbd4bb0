"""The self-check: it passes on every family, and it fails where something does not act."""

import json
from dataclasses import replace
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, PixtralVisionConfig, Qwen2Config
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from typer.testing import CliRunner

import vsink_interp as vi
from tests import lacking, nodes, tiny
from tests.families.decoders import opened as opened_around
from vsink_interp.cli.main import app
from vsink_interp.families import FAMILIES, REFUSED, Tap
from vsink_interp.families.mistral3 import rows_of_patches
from vsink_interp.families.processing import Composed
from vsink_interp.families.tiny import VISION, build, like, tokenizer
from vsink_interp.graph.hook_points import find_hook
from vsink_interp.model import capabilities
from vsink_interp.model.capabilities import check

NAMES = [one.name for one in FAMILIES if one.tiny and one.name not in lacking.FAMILIES]


@cache
def opened(name):
    return vi.LMM.tiny(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_family_does_what_it_offers(name):
    lmm = opened(name)
    found = lmm.capabilities
    assert found.passed, str(found)
    assert found.family == name
    assert {one.hook for one in found.hooks if one.works} == set(lmm.hooks)
    normed = name in ("Gemma 3", "Gemma 4", "Qwen3-VL", "Qwen3.5")
    assert normed == set(nodes.NORMED).issubset({find_hook(hook).name for hook in lmm.hooks})
    # Aya Vision has nothing between attention and MLP; Ovis2 has no features of a tower at its end.
    lacks = name in ("Aya Vision", "Ovis2")
    assert len(lmm.hooks) >= len(nodes.POINTS) - 2 + 2 * normed - lacks
    assert all(one.reason for one in found.hooks if not one.works)
    assert found is lmm.capabilities


def test_a_hook_point_that_is_read_nowhere_the_model_looks_is_not_offered():
    """A form that points at the wrong module: reading works, overwriting changes nothing."""
    config, processor = next(f for f in FAMILIES if f.name == "LLaVA-NeXT").tiny()
    right = next(f for f in FAMILIES if f.name == "LLaVA-NeXT")
    model = build(config)
    model.model.language_model.layers[0].unused = torch.nn.Identity()
    wrong = {**vi.LMM(model, processor).hooked.family.taps_by_layer[0]}
    wrong["mlp.hook_pre"] = Tap("unused", "output")
    lmm = vi.LMM(model, processor, family=replace(right, layer_taps=wrong), check=False)
    hook = "blocks.{layer}.mlp.hook_pre"
    assert hook in lmm.hooks
    assert not lmm.capabilities.passed
    assert hook in lmm.capabilities.failed
    assert hook not in lmm.hooks
    with pytest.raises(vi.CapabilityError, match=r"does not offer 'blocks.{layer}.mlp.hook_pre'"):
        lmm.run(lmm.encode(tiny.image(), "count"), graph=vi.probes.Activation("mlp.hook_pre", 0))


def plain_tiny(name, text=None):
    form = next(family for family in FAMILIES if family.name == name)
    config, processor = form.tiny()
    if text is not None:
        config = like(config, text, type(config.vision_config))
    return form, build(config), processor


def checked(monkeypatch):
    """Which models the self-check is made of, from now on."""
    seen = []

    def watched(lmm):
        seen.append(lmm)
        return check(lmm)

    capabilities._failed_in_small.cache_clear()
    monkeypatch.setattr(capabilities, "check", watched)
    return seen


def test_at_load_a_tiny_model_of_the_same_classes_is_tried_once(monkeypatch):
    seen = checked(monkeypatch)
    _, model, processor = plain_tiny("LLaVA-1.5")
    first, second = vi.LMM(model, processor), vi.LMM(model, processor)
    (small,) = seen
    assert small.hf_model is not model
    assert type(small.hf_model) is type(model)
    assert first.hooks == second.hooks == small.hooks
    vi.LMM(model, processor, check=False)
    vi.LMM.tiny("Qwen2-VL")
    assert len(seen) == 1


def test_at_load_the_language_model_is_of_the_same_class_too(monkeypatch):
    seen = checked(monkeypatch)
    _, model, processor = plain_tiny("LLaVA-1.5", text=Qwen2Config)
    vi.LMM(model, processor)
    assert type(seen[0].hf_model.model.language_model) is type(model.model.language_model)
    assert type(seen[0].hf_model.model.language_model).__name__ == "Qwen2Model"
    config = CLIPVisionConfig(**model.config.vision_config.to_dict())
    model.config.vision_config = replace_class(config)
    vi.LMM(model, processor)
    assert len(seen) == 1, "no tiny model of this vision side is known"


def replace_class(config):
    config.__class__ = type("OtherVisionConfig", (CLIPVisionConfig,), {})
    return config


def test_values_of_other_sizes_than_their_axes_fail():
    """Queries that a form takes for keys: as many axes, another number of heads."""
    form, model, processor = plain_tiny("LLaVA-1.5")
    layer = {**vi.LMM(model, processor, check=False).hooked.family.taps_by_layer[0]}
    layer["attn.hook_k"] = replace(layer["attn.hook_q"])
    lmm = vi.LMM(model, processor, family=replace(form, layer_taps=layer), check=False)
    assert "blocks.{layer}.attn.hook_k" in lmm.capabilities.failed
    assert "blocks.{layer}.attn.hook_q" not in lmm.capabilities.failed


def test_what_fails_at_load_is_not_offered():
    form, model, processor = plain_tiny("LLaVA-1.5")
    layer = {**vi.LMM(model, processor).hooked.family.taps_by_layer[0]}
    layer["mlp.hook_pre"] = Tap("mlp.gate_proj", "output", heads="head", shape="b h q d")
    lmm = vi.LMM(model, processor, family=replace(form, layer_taps=layer))
    assert "blocks.{layer}.mlp.hook_pre" not in lmm.hooks
    assert "blocks.{layer}.mlp.hook_post" in lmm.hooks
    encoding = lmm.encode(tiny.image(), "count")
    with pytest.raises(vi.CapabilityError, match=r"does not offer .*mlp.hook_pre.*read: "):
        lmm.run(encoding, graph=vi.probes.Activation("mlp.hook_pre", 0))


def test_what_failed_at_load_fails_when_the_model_is_asked():
    """It was offered by the form: `vsink check-model` must not pass over it."""
    form, model, processor = plain_tiny("LLaVA-1.5")
    layer = {**vi.LMM(model, processor).hooked.family.taps_by_layer[0]}
    layer["mlp.hook_pre"] = Tap("mlp.gate_proj", "output", heads="head", shape="b h q d")
    lmm = vi.LMM(model, processor, family=replace(form, layer_taps=layer))
    assert not lmm.capabilities.passed
    assert set(lmm.capabilities.failed) == {"blocks.{layer}.mlp.hook_pre"}
    assert "blocks.{layer}.mlp.hook_pre" not in lmm.hooks


def test_a_model_whose_plain_run_differs_is_refused_at_load(monkeypatch):
    checked(monkeypatch)
    wrong = capabilities.check
    monkeypatch.setattr(capabilities, "check", lambda lmm: replace(wrong(lmm), exact=False))
    _, model, processor = plain_tiny("LLaVA-1.5")
    with pytest.raises(vi.CapabilityError, match="without edits does not give the logits"):
        vi.LMM(model, processor)
    assert vi.LMM(model, processor, check=False).hooks
    capabilities._failed_in_small.cache_clear()


def unknown_llava():
    model = tiny.hf_model()
    model.config.model_type = "lava"
    processor = tiny.processor()
    processor.image_token = "<image>"
    return model, processor


def test_a_model_of_no_known_family_works_where_its_layout_is_usual():
    lmm = vi.LMM(*unknown_llava(), sinks=tiny.SINKS)
    assert "inferred" in repr(lmm)
    assert lmm.capabilities.inferred
    assert str(lmm.capabilities).count("inferred") == 1
    assert lmm.capabilities.passed
    encoding = tiny.encode()
    mine = lmm.encode(*tiny.PROMPTS["one image"])
    assert torch.equal(mine.layout.mask("image"), encoding.layout.mask("image"))
    edit = vi.Knockout("image -> query")
    assert torch.equal(
        lmm.run(mine, graph=edit).logits, tiny.lmm().run(encoding, graph=edit).logits
    )
    with pytest.raises(vi.LayoutError, match="not known"):
        mine.layout.images[0][0].patch_box(0)


def test_a_model_whose_layout_is_not_found_is_refused_with_where_it_looked():
    model, processor = unknown_llava()
    model.model.words = model.model.language_model
    del model.model.language_model
    with pytest.raises(vi.CapabilityError, match=r"no decoder layers at model.language_model"):
        vi.LMM(model, processor)


def test_a_tower_that_is_not_found_leaves_the_decoder_open():
    """Both papers need no more than that."""
    model, processor = unknown_llava()

    class Elsewhere(type(model.model)):
        def __getattr__(self, name):
            moved = {"multi_modal_projector": "bridge", "vision_tower": "eyes"}
            return super().__getattr__(moved.get(name, name))

    inner = model.model
    inner.bridge, inner.eyes = inner.multi_modal_projector, inner.vision_tower
    del inner.multi_modal_projector, inner.vision_tower
    inner.__class__ = Elsewhere
    lmm = vi.LMM(model, processor, sinks=tiny.SINKS)
    assert lmm.capabilities.passed
    assert not any(hook.startswith("vision") for hook in lmm.hooks)
    mine, edit = lmm.encode(*tiny.PROMPTS["one image"]), vi.Knockout("image -> query")
    theirs = tiny.lmm().run(tiny.encode(), graph=edit)
    assert torch.equal(lmm.run(mine, graph=edit).logits, theirs.logits)
    for hook in ("vision_projector.hook_out", "vision_encoder.blocks.{layer}.hook_resid_post"):
        with pytest.raises(vi.CapabilityError, match=r"it has no (projector|vision layers) at"):
            lmm.run(mine, graph=vi.probes.Activation(hook))


def test_a_language_model_that_is_built_otherwise_is_refused_by_name():
    with pytest.raises(vi.CapabilityError, match="of type 'opt' is not supported"):
        opened_around("opt", ffn_dim=96, word_embed_proj_dim=64)


def test_pixtral_inside_llava_is_looked_at_as_an_unknown_family():
    """The layout of pixtral-12b: rows of an image end in a token that is no image token."""
    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    images = PixtralImageProcessorPil(
        size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}
    )
    processor = Composed(images, words, rows_of_patches(14), marker="[IMG]")
    processor.image_token = "[IMG]"
    config = next(f for f in FAMILIES if f.name == "LLaVA-1.5").tiny()[0]
    config.text_config.vocab_size = len(words)
    config.image_token_id = words.convert_tokens_to_ids("[IMG]")
    config.vision_config = PixtralVisionConfig(
        **VISION, image_size=56, patch_size=14, head_dim=16, num_channels=3
    )
    config.vision_feature_select_strategy = "full"
    model = build(config)
    lmm = vi.LMM(model, processor)
    assert lmm.capabilities.inferred
    assert lmm.capabilities.passed
    shown = [Image.new("RGB", (56, 28)), Image.new("RGB", (28, 28))]
    encoding = lmm.encode(shown, "compare [IMG] with [IMG]")
    assert [span.size for span in encoding.layout.images[0]] == [8, 4]
    breaks = encoding.inputs["input_ids"] == words.convert_tokens_to_ids("[IMG_BREAK]")
    assert breaks.sum() == 2
    assert (encoding.layout.mask("separator") & breaks).sum() == 2
    with torch.no_grad():
        assert torch.equal(lmm.run(encoding).logits, model(**encoding.inputs).logits)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_defined_is_refused_by_name(kind):
    model = tiny.hf_model()
    model.config.model_type = kind
    with pytest.raises(vi.CapabilityError, match=f"{kind} models are not supported: .*"):
        vi.LMM(model, tiny.processor())


def test_the_command_prints_one_json_object(monkeypatch):
    known, load = {"Gemma 3": opened("Gemma 3")}, vi.LMM.tiny
    monkeypatch.setattr(vi.LMM, "tiny", lambda name: known.get(name) or load(name))
    done = CliRunner().invoke(app, ["check-model", "--tiny", "Gemma 3", "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["models"]
    assert found["passed"]
    assert found["family"] == "Gemma 3"
    assert {one["hook"] for one in found["hooks"]} == {point.template for point in vi.HOOKS}
    tried = [one for one in found["hooks"] if one["n_layers"]]
    assert tried and all(one["read"] and one["write"] and one["prefill"] for one in tried)
    assert any(one["decode"] for one in tried)
    table = CliRunner().invoke(app, ["check-model", "--tiny", "Gemma 3"]).stdout
    assert "blocks.{layer}.attn.hook_pattern" in table
    wrong = CliRunner().invoke(app, ["check-model", "--tiny", "Gema 3"])
    assert wrong.exit_code == 1
    assert "did you mean 'Gemma 3'" in wrong.stderr
    assert CliRunner().invoke(app, ["check-model"]).exit_code == 1


def test_the_page_of_families_is_fresh():
    path = Path(__file__).parents[2] / "docs" / "gen_families.py"
    spec = spec_from_file_location("gen_families", path)
    gen_families = module_from_spec(spec)
    spec.loader.exec_module(gen_families)
    fresh = gen_families.page([opened(name).capabilities for name in NAMES])
    assert gen_families.PAGE.read_text() == fresh, "run: python docs/gen_families.py"


def test_a_vision_tower_may_be_deeper_than_the_decoder():
    """Qwen2-VL-7B has 32 vision layers and 28 of its decoder."""
    config, processor = next(f for f in FAMILIES if f.name == "Qwen2-VL").tiny()
    config.vision_config.depth = config.get_text_config().num_hidden_layers + 2
    lmm = vi.LMM(build(config), processor, check=False)
    last = config.vision_config.depth - 1
    probe = vi.probes.Activation("vision_encoder.blocks.{layer}.hook_resid_post", last)
    assert lmm.run(tiny.image(), "count", graph=probe)[probe].values.std() > 0
    with pytest.raises(vi.NotationError, match=f"0 to {last}"):
        lmm.run(tiny.image(), "count", graph=vi.probes.Activation(probe.hook, last + 1))
