"""Learned sinks, one more column of the softmax, against transformers' own eager attention."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch

import vsink_interp as vi
from tests.families import plain
from tests.families.decoders import LEARNED_SINKS, SINKS, opened
from tests.families.test_families import NEAR, PROMPTS, apart, logits
from vsink_interp.engine.row_program import RowProgram
from vsink_interp.probes import LearnedSinkMass, Pattern, SegmentMass
from vsink_interp.remote import runtime

every_decoder = pytest.mark.parametrize("text", LEARNED_SINKS)
PROMPT = "what is the red disc on this ?"


@cache
def lmm(text):
    return opened(text, "InternVL", attention="eager", **LEARNED_SINKS[text])


@cache
def encoded(text, prompt="one"):
    return lmm(text).encode(*PROMPTS[prompt])


@every_decoder
def test_the_pattern_is_that_of_transformers_and_the_rest_is_the_sinks(text):
    model, encoding = lmm(text), encoded(text)
    with torch.no_grad():
        theirs = torch.stack(model.hf_model(**encoding.inputs, output_attentions=True).attentions)
    probes = Pattern("all"), LearnedSinkMass("all"), SegmentMass("all")
    run = model.run(encoding, graph=vi.EditGraph(*probes))
    pattern, sink, mass = (run[probe].values for probe in probes)
    assert torch.equal(run.logits, logits(model.hf_model, encoding))
    if text != "granite_swa":  # which returns the pattern without its sinks
        assert apart(pattern, theirs) < 1e-6
        assert apart(sink, 1 - theirs.sum(-1)) < 1e-6
    assert 0.2 < sink.mean() < 0.9
    assert sink.std() > 0.05
    assert apart(mass.sum(-1) + sink, torch.ones_like(sink)) < 1e-6


@every_decoder
def test_the_sink_mass_is_the_last_column_of_the_softmax(text):
    model, encoding = lmm(text), encoded(text)
    probes = vi.probes.Activation("attn.hook_attn_scores", 1), LearnedSinkMass("all", 1)
    run = model.run(encoding, graph=vi.EditGraph(*probes))
    scores, mass = (run[probe].values[0].double() for probe in probes)
    sinks = model.hooked.layers[1].self_attn.sinks.detach().double()
    joined = torch.cat([scores, sinks[:, None, None].expand(*scores.shape[:-1], 1)], -1)
    assert apart(mass, torch.softmax(joined, -1)[..., -1]) < 1e-6


@every_decoder
def test_a_register_is_one_more_column_beside_the_sink(text):
    model, encoding = lmm(text), encoded(text)
    probes = vi.probes.Activation("attn.hook_attn_scores", 1), Pattern("all", 1)
    edit = vi.SoftmaxRegister(0.4, layers=1, rows="all")
    run = model.run(encoding, graph=vi.EditGraph(edit, *probes))
    scores, pattern = (run[probe].values[0].double() for probe in probes)
    sinks = model.hooked.layers[1].self_attn.sinks.detach().double()[:, None, None]
    columns = [c.expand(*scores.shape[:-1], 1) for c in (sinks, torch.full_like(sinks, 0.4))]
    wanted = torch.softmax(torch.cat([scores, *columns], -1), -1)[..., : scores.shape[-1]]
    assert apart(pattern, wanted) < 1e-6


def test_heads_with_sinks_of_their_own_are_not_compared_by_scores():
    text = next(iter(LEARNED_SINKS))
    model, encoding, top = lmm(text), encoded(text), vi.TopHeads("image", 1)
    for edit in (vi.AddScores("image", 1.0, heads=top), vi.Knockout("image -> query", heads=top)):
        with pytest.raises(vi.CapabilityError, match="learned sink for each head"):
            model.run(encoding, graph=edit)
    damped = model.run(encoding, graph=vi.ScaleHeads(0.0, heads=top))
    assert apart(damped.logits, model.run(encoding).logits) > 1e-4


@every_decoder
def test_rows_of_padding_give_the_sink_nothing(text):
    model = lmm(text)
    images, texts = zip(PROMPTS["one"], PROMPTS["wide"], strict=True)
    encoding = model.encode(list(images), list(texts))
    padding = ~encoding.inputs["attention_mask"].bool()
    assert padding.any()
    run = model.run(encoding, graph=LearnedSinkMass("all"))
    mass = run[LearnedSinkMass("all")].values.transpose(2, 3)
    assert (mass[:, padding] == 0).all()
    assert (mass[:, ~padding] > 0).all()


@every_decoder
def test_edits_that_change_nothing_leave_the_logits(text):
    model, encoding = lmm(text), encoded(text)

    def keep(value, hook=None):
        del hook
        return value.clone()

    for edit in (
        vi.VAR(p=0.0, rho=0.0, min_image_mass=0.0),
        vi.Fn("attn.hook_attn_scores", keep),
        vi.Fn("attn.hook_pattern", keep),
    ):
        run = model.run(encoding, graph=edit)
        assert apart(run.logits, logits(model.hf_model, encoding)) < NEAR


@every_decoder
def test_knockout_equals_a_cut_in_transformers_own_mask(text):
    model, encoding = lmm(text), encoded(text)
    ids = encoding.inputs["input_ids"]
    new = torch.zeros(1, 6, dtype=torch.bool)
    columns = torch.cat([ids == model.hf_model.config.image_token_id, new], 1)
    rows = torch.cat([encoding.layout.mask("query"), ~new], 1)
    options = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}
    with plain.cut(model.hf_model, rows, columns, range(1, 4)):
        theirs = model.hf_model.generate(**encoding.inputs, **options)
    untouched = model.hf_model.generate(**encoding.inputs, **options)
    assert apart(untouched.logits[0], theirs.logits[0]) > 0.1, "the cut does nothing"
    edit = vi.Knockout("image -> query generated", "1:")
    run = model.generate(encoding, graph=edit, max_new_tokens=6)
    assert apart(run.logits, torch.stack(theirs.logits, 1)) < NEAR


def test_few_keys_left_are_weighed_beside_the_sink(monkeypatch):
    """Keys that a cut leaves are gathered where they are few."""
    gathered, own = [], RowProgram._gathered
    monkeypatch.setattr(RowProgram, "_gathered", lambda *args: gathered.append(1) or own(*args))
    model, encoding = lmm("gpt_oss"), encoded("gpt_oss")
    new = torch.ones(1, 4, dtype=torch.bool)
    rows = torch.cat([torch.zeros_like(encoding.layout.mask("all")), new], 1)
    options = {"max_new_tokens": 4, "return_dict_in_generate": True, "output_logits": True}
    with plain.cut(model.hf_model, rows, ~rows, (1, 3)):
        theirs = model.hf_model.generate(**encoding.inputs, **options).logits
    edit = vi.Knockout("system image query -> generated", "1,3")
    run = model.generate(encoding, graph=edit, max_new_tokens=4)
    assert len(gathered) == 6  # two layers, three steps
    assert apart(run.logits, model.generate(encoding, max_new_tokens=4).logits) > 0.1
    assert apart(run.logits, torch.stack(theirs, 1)) < NEAR


def test_var_equals_the_paper_inside_transformers_eager_attention():
    """The bound on image mass is a share of all attention, the sink's included."""
    model, encoding = lmm("gpt_oss"), encoded("gpt_oss", "two")
    layout = encoding.layout.extend(6)
    masks = [layout.mask(group) for group in ("image", "query generated", "all")]
    shares = {"p": 0.6, "rho": 0.1, "least": 0.15}
    options = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}
    layers = range(model.n_layers - 1)
    with plain.redistributed(model.hf_model, *masks, SINKS.dims, SINKS.tau, layers, **shares):
        theirs = model.hf_model.generate(**encoding.inputs, **options)
    edit = vi.VAR(p=0.6, rho=0.1, min_image_mass=0.15)
    run = model.generate(encoding, graph=edit, max_new_tokens=6)
    untouched = model.generate(encoding, max_new_tokens=6)
    assert apart(run.logits[:, 0], untouched.logits[:, 0]) > 0.01, "VAR does nothing"
    assert apart(run.logits, torch.stack(theirs.logits, 1)) < NEAR
    probe = Pattern("all")
    patterns = model.run(encoding, graph=vi.EditGraph(probe, edit, probe))
    before, after = (patterns[f"{probe!r}#{i}"].values for i in (1, 2))
    assert apart(before.sum(-1), after.sum(-1)) < 1e-6


def test_it_opens_with_its_self_check_and_offers_everything_inside_attention():
    model = opened("gpt_oss", "InternVL", attention="eager", check=True, **LEARNED_SINKS["gpt_oss"])
    assert not model.hooked.failed
    inside = {"attn_scores", "pattern", "z", "result"}
    assert {f"blocks.{{layer}}.attn.hook_{name}" for name in inside} <= set(model.hooks)


def test_a_server_that_hides_its_weights_says_so():
    """In a sandbox weights have no values; elsewhere tests/remote/test_learned_sinks.py runs it."""
    attention = lmm("gpt_oss").hooked.layers[1].self_attn
    here, stop = SimpleNamespace(get=lambda _: attention), {"path": "", "layer": 1}
    like = torch.zeros(1)
    assert runtime.learned_sinks(here, {**stop, "learned": False}, like) is None
    assert runtime.learned_sinks(here, {**stop, "learned": True}, like) is attention.sinks
    hidden = SimpleNamespace(get=lambda _: SimpleNamespace(sinks=torch.ones(4, device="meta")))
    with pytest.raises(RuntimeError, match=r"layer 1 has learned sinks .* hides its weights"):
        runtime.learned_sinks(hidden, {**stop, "learned": True}, like)
