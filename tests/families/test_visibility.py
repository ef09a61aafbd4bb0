"""Which tokens a row sees: by the zeros of transformers' eager attention, windows and all."""

from dataclasses import replace
from functools import cache
from typing import ClassVar

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaAttention

import vsink_interp as vi
from tests.families.decoders import LEARNED_SINKS, SINKS, WINDOWS, around
from tests.families.test_families import PROMPTS, SHOWN, attending, batch, lmm as named
from tests.lacking import OLDEST
from vsink_interp.families import family_of, infer
from vsink_interp.model.identities import own_sight
from vsink_interp.probes import AttentionMaps, Contribution, Pattern, SegmentMass

WINDOWED = {
    "mistral": ("LLaVA-1.5", {"sliding_window": 8}),
    "gpt_oss": ("InternVL", LEARNED_SINKS["gpt_oss"]),
    "gemma2": ("PaliGemma", {**WINDOWS, "head_dim": 16, "attn_logit_softcapping": None}),
    "gemma3_text": ("Gemma 3", {**WINDOWS, "head_dim": 16}),
}
"""Decoders with sliding windows in families that see causally, prefixes and image blocks."""
MODELS = (*SHOWN, *WINDOWED)
every_model = pytest.mark.parametrize("name", MODELS)


@cache
def lmm(name):
    if name in SHOWN:
        return named(name, "eager")
    family, sizes = WINDOWED[name]
    model, processor = around(name, family, attention="eager", **sizes)
    return vi.LMM(model, processor, sinks=SINKS, check=False)


def ragged(name):
    """Prompts of different length, with answers of one length behind them."""
    model = lmm(name)
    if name in SHOWN:
        encoding = batch(name)[1]
    else:
        images, texts = zip(*(PROMPTS[one] for one in ("wide", "two", "one")), strict=True)
        encoding = model.encode(list(images), list(texts))
    answer = torch.arange(30, 36).expand(encoding.layout.batch, -1)
    return model, encoding.with_answer(answer)


@cache
def seen(name):
    """What rows of real tokens give some attention to: `[layer batch row token]`."""
    model, encoding = ragged(name)
    with torch.no_grad():
        found = model.hf_model(**encoding.inputs, output_attentions=True).attentions
    layers = attending(model)
    found = [found[at] for at in layers] if len(found) == model.n_layers else found
    real = encoding.inputs["attention_mask"].bool()
    there = torch.stack([(one > 0).any(1) & real[:, :, None] for one in found])
    return model, encoding, layers, there


@every_model
def test_a_row_sees_what_eager_attention_gives_something(name):
    _, longer, layers, expected = seen(name)
    layout = longer.layout
    rows = range(layout.length)
    windows = [layout.windows[at] if layout.windows else None for at in layers]
    got = torch.stack([layout.visible(rows, window) for window in windows])
    assert torch.equal(got, expected)
    if name in WINDOWED or layout.windows:
        assert any(windows)
        whole = replace(layout, windows=()).visible(rows)
        assert any(not torch.equal(one, whole) for one in got)
    assert torch.equal(layout.visible(rows), expected.any(0)), "what some layer lets see"
    for group in ("image", "query", "bos query", "generated"):
        keys = layout.mask(group)
        reached = torch.stack([layout.reached(keys, window) for window in windows])
        assert torch.equal(reached, (expected & keys[:, None]).any(-1)), group


@every_model
def test_of_a_record_counts_what_a_row_sees(name):
    model, longer, layers, expected = seen(name)
    image = longer.layout.mask("image")
    asked = {
        "pattern": Pattern("all", layers),
        "maps": AttentionMaps("all", layers),
        "mass": SegmentMass("all", layers, groups=("image", "query")),
    }
    if not model.hooked.gating:
        asked["added"] = Contribution("all", layers)
    run = model.run(longer, graph=vi.EditGraph(*asked.values()))

    def counts(what):
        record = run[asked[what]]
        record = record.taken("head", [0]) if "head" in record.axes else record
        wide = record.counts.expand(record.values.shape)
        return wide.squeeze(record.axis("head")) if "head" in record.axes else wide

    assert torch.equal(counts("pattern"), expected)
    if "added" in asked:
        assert torch.equal(counts("added"), expected)
    of_image = counts("maps")
    for sample, places in enumerate(image):
        assert torch.equal(of_image[:, sample, :, : places.sum()], expected[:, sample][..., places])
    groups = torch.stack(
        [(expected & longer.layout.mask(g)[:, None]).any(-1) for g in ("image", "query")], -1
    )
    assert torch.equal(counts("mass"), groups)


@every_model
def test_a_models_own_masks_tell_what_its_family_says(name):
    model = lmm(name)
    if name == "Llama 4" and OLDEST:
        with pytest.raises(vi.CapabilityError, match="cannot make the masks"):
            own_sight(model)
        return
    assert own_sight(model) == model.hooked.family.sight


def test_masks_that_transformers_cannot_make_are_no_raw_error(monkeypatch):
    def older(**_):
        raise TypeError("create_chunked_causal_mask() got an unexpected keyword argument")

    model = lmm("LLaVA-1.5")
    monkeypatch.setattr(model.hf_model, "create_masks_for_generate", older, raising=False)
    with pytest.raises(vi.CapabilityError, match=r"cannot make the masks of Llava.*a newer"):
        own_sight(model)


@pytest.mark.parametrize("name", ["Gemma 3", "LLaVA-NeXT"])
def test_an_unknown_model_is_asked_for_its_masks(name):
    model = lmm(name)
    form = replace(infer(model.hf_model, model.processor), opening="", template="{content}")
    found = vi.LMM(model.hf_model, model.processor, sinks=SINKS, family=form)
    assert found.hooked.family.sight == model.hooked.family.sight
    assert found.encode(*PROMPTS["one"]).layout.sight == model.hooked.family.sight


def test_masks_that_no_rule_here_makes_are_refused():
    model = named("Gemma 3", "eager")
    form = replace(family_of(model.hf_model, model.processor), sight="prefix")
    found = vi.LMM(model.hf_model, model.processor, sinks=SINKS, family=form)
    for _ in range(2):  # a trial of every hook point does not forget it
        with pytest.raises(vi.CapabilityError, match="masks are not those of Gemma 3"):
            found.run(*PROMPTS["one"], Pattern())
        assert found.capabilities


def test_what_only_other_layers_see_cannot_be_cut():
    """Gemma's windows of some layers end behind the image; cut there, nothing would change."""
    model, encoding, _, there = seen("gemma3_text")
    image, answer = (encoding.layout.mask(group) for group in ("image[0]", "generated"))
    sees = (there & image[:, None] & answer[..., None]).any((1, 2, 3)).tolist()
    assert sees == [window is None for window in encoding.layout.windows]
    hidden, seeing = (
        [at for at, one in enumerate(sees) if one is value] for value in (False, True)
    )
    plain, flow = model.run(encoding).logits, "image[0] -> generated"
    with pytest.raises(vi.LayoutError, match="in layers that look 8 tokens back"):
        model.run(encoding, graph=vi.Knockout(flow, hidden))
    for layers in (seeing, [hidden[0], seeing[0]], ":"):
        cut = model.run(encoding, graph=vi.Knockout(flow, layers)).logits
        assert not torch.equal(cut, plain)


@pytest.mark.parametrize("window", [6, 60])
def test_a_window_that_the_kind_of_a_layer_does_not_say_is_refused_where_it_hides(window):
    """MiniMax has a window in every layer, which `layer_types` calls full; so has this Mistral."""
    sizes = {"sliding_window": window, "layer_types": ["full_attention"] * 4}
    model, processor = around("mistral", attention="eager", **sizes)
    found = vi.LMM(model, processor, sinks=SINKS, check=False)
    encoding = found.encode(*PROMPTS["one"])
    with torch.no_grad():
        theirs = torch.stack(model(**encoding.inputs, output_attentions=True).attentions)
    causal = encoding.layout.visible(range(encoding.layout.length))
    assert torch.equal((theirs > 0).any(0).any(1), causal) == (window == 60)
    if window == 60:
        assert torch.equal(found.run(encoding, graph=Pattern("all"))[Pattern("all")].values, theirs)
        return
    with pytest.raises(vi.CapabilityError, match=r"layer 0 .* only 6 tokens back.*layer_types"):
        found.run(encoding, graph=SegmentMass())


class Own(LlamaAttention):
    """Attention of one's own, in a file without an eager function."""

    given: ClassVar[dict] = {}

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs, **self.given)


class Biased(Own):
    given: ClassVar[dict] = {"position_bias": torch.ones(1)}


def with_attention(kind):
    model, processor = around("llama", attention="eager")
    for layer in model.model.language_model.layers:
        layer.self_attn.__class__ = kind
    return vi.LMM(model, processor, sinks=SINKS, check=False)


def test_what_attention_is_given_and_explicit_rows_do_not_know_is_refused_by_name():
    found = with_attention(Biased)
    encoding = found.encode(*PROMPTS["one"])
    with pytest.raises(vi.CapabilityError, match="gives its attention position_bias, which explic"):
        found.run(encoding, graph=vi.Knockout("image -> query"))
    assert found.run(encoding, graph=vi.probes.Resid("all")).logits.isfinite().all()


def test_attention_that_inherits_is_that_of_its_parent():
    found, same = with_attention(Own), with_attention(LlamaAttention)
    encoding = found.encode(*PROMPTS["one"])
    for graph in (None, vi.Knockout("image -> query"), SegmentMass()):
        runs = [one.run(encoding, graph=graph).logits for one in (found, same)]
        assert torch.equal(*runs)
