"""Rows that keep few keys: gathered where that is all that happens to them, and whole elsewhere."""

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.families.decoders import opened
from tests.model.test_lmm import sliding
from vsink_interp.engine import row_program
from vsink_interp.engine.row_program import RowProgram
from vsink_interp.probes import Activation, Pattern, SegmentMass

NEAR = 2e-5


@pytest.fixture
def gathered(monkeypatch):
    """The calls of attention in which keys were gathered."""
    calls, own = [], RowProgram._gathered
    monkeypatch.setattr(RowProgram, "_gathered", lambda *args: calls.append(1) or own(*args))
    return calls


def apart(one, other):
    return float((one - other).abs().max())


def reference(name, layers, group, keep):
    """Logits of eager attention in which the rows of a group see these keys alone."""
    hf_model = tiny.lmm(attention="eager").hf_model
    encoding = tiny.encode(name)
    rows, keep = (encoding.layout.mask(words)[0] for words in (group, keep))

    def change(module, args, kwargs):
        del module
        mask = kwargs["attention_mask"].clone()
        mask[:, :, rows.nonzero()[:, 0, None], (~keep).nonzero()[:, 0]] = torch.finfo(
            mask.dtype
        ).min
        return args, kwargs | {"attention_mask": mask}

    inner = hf_model.model.language_model.layers
    handles = [
        inner[at].self_attn.register_forward_pre_hook(change, with_kwargs=True) for at in layers
    ]
    try:
        with torch.no_grad():
            return hf_model(**encoding.inputs).logits
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("name", "rows", "keep"),
    [
        ("one image", "query", "bos"),
        ("two images", "image[1]", "image[1]"),
        ("one image", "query & role", "bos last"),  # two rows, of which the first sees BOS alone
    ],
)
def test_rows_that_keep_few_keys_gather_them(gathered, attention, name, rows, keep):
    """Under a mask and without one; of the keys that are left some lie behind a row."""
    lmm, encoding = tiny.lmm(attention=attention), tiny.encode(name)
    cut = " & ".join(f"~{word}" for word in keep.split())
    run = lmm.run(encoding, graph=vi.Knockout(f"{cut} -> {rows}", "1:3"))
    assert len(gathered) == 2
    theirs = reference(name, (1, 2), rows, keep)
    assert apart(run.logits, tiny.plain(lmm, encoding)) > 0.1
    assert apart(run.logits, theirs) < NEAR


def test_a_pattern_that_is_asked_for_has_all_keys(gathered):
    """The record of a row that keeps one key: all of its attention."""
    pattern = Pattern("query", "1:3")
    run = tiny.lmm().run(tiny.encode(), graph=vi.Knockout("~bos -> query", "1:3") | pattern)
    assert not gathered
    layout = tiny.encode().layout
    rows = layout.mask("query")[0][list(run[pattern].labels("query"))]
    only = layout.mask("bos")[0].float()
    assert torch.equal(
        run[pattern].values[:, 0][:, :, rows], only.expand(2, 4, int(rows.sum()), -1)
    )
    assert apart(run.logits, reference("one image", (1, 2), "query", "bos")) < NEAR


def test_keys_are_counted_by_token_where_the_cache_has_lost_some(gathered):
    """The only key left is that of the last prompt token, behind those that were dropped."""
    cut = vi.Knockout("~last -> generated", "2:")
    options = {"max_new_tokens": 4}
    want = tiny.lmm().generate(tiny.encode(), graph=cut, **options)
    assert len(gathered) == 6  # two layers, three steps
    gathered.clear()
    run = tiny.lmm().generate(tiny.encode(), graph=vi.DropKeys("image", "2:") | cut, **options)
    assert not gathered
    plain = tiny.lmm().generate(tiny.encode(), **options)
    assert apart(want.logits, plain.logits) > 0.1
    assert apart(run.logits, want.logits) < NEAR


def test_a_window_that_holds_none_of_the_few_keys_is_refused():
    """Rows far from BOS would keep it in a full layer; their window holds nothing that is left."""
    kinds = ["full_attention", "sliding_attention"] * 2
    lmm = opened("qwen2", use_sliding_window=True, sliding_window=6, layer_types=kinds)
    encoding = lmm.encode(*tiny.PROMPTS["one image"])
    assert encoding.layout.windows == (None, 6, None, 6)
    with pytest.raises(vi.LayoutError, match=r"layers \[1\] nothing to attend to"):
        lmm.run(encoding, graph=vi.Knockout("~bos -> query", "1"))


def test_a_flow_beyond_the_window_of_every_layer_is_refused_before_the_run():
    lmm = sliding()
    encoding = lmm.encode(*tiny.PROMPTS["one image"])
    for flow, why in {
        "bos -> query": "nothing flows there",
        "~bos -> query": "leaves nothing to attend to at positions",
    }.items():
        with pytest.raises(vi.LayoutError, match=why):
            lmm.run(encoding, graph=vi.Knockout(flow, "1"))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_that_padding_blinds_are_not_laid_at_an_edits_door(attention):
    same = vi.Fn("attn.hook_attn_scores", lambda scores, hook: scores)  # noqa: ARG005
    lmm, batch = tiny.lmm(attention=attention), tiny.batch("one image", "short")
    real = batch.inputs["attention_mask"].bool()
    assert not real.all()
    run = lmm.run(batch, graph=same)
    assert apart(run.logits[real], tiny.plain(lmm, batch)[real]) < NEAR


def test_what_sums_over_keys_and_what_shows_them_share_rows():
    """Rows in the middle of a prompt, whose pattern is computed without the keys behind them."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    shown, summed = Pattern("image", "1"), SegmentMass(rows="image", layers="1")
    with torch.no_grad():
        eager = tiny.lmm(attention="eager").hf_model
        theirs = eager(**encoding.inputs, output_attentions=True).attentions[1]
    rows = encoding.layout.mask("image")[0].nonzero().flatten()
    assert rows[-1] < encoding.layout.length - 1
    run = lmm.run(encoding, graph=shown | summed)
    assert apart(run[shown].values[0][:, :, -len(rows) :], theirs[:, :, rows]) < NEAR
    masses = run[summed].at(segment="image").values[0][:, :, -len(rows) :]
    assert apart(masses, theirs[:, :, rows][..., rows].sum(-1)) < NEAR


def test_scores_of_rows_in_the_middle_of_a_prompt_are_of_all_keys():
    """Those behind a row are there, and hidden."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    scores = Activation("attn.hook_attn_scores", 1, rows="image")
    with torch.no_grad():
        eager = tiny.lmm(attention="eager").hf_model
        theirs = eager(**encoding.inputs, output_attentions=True).attentions[1]
    record = lmm.run(encoding, graph=scores)[scores]
    rows = list(record.labels("query"))
    assert rows[-1] < encoding.layout.length - 1
    found = record.values[0]
    assert found.shape == theirs[:, :, rows].shape
    assert apart(found.softmax(-1), theirs[:, :, rows]) < NEAR


@pytest.mark.parametrize("count", [1, 2])
def test_the_last_row_alone_sees_every_key(count):
    encoding = tiny.encode().with_answer(torch.tensor([[20, 21]])[:, :count])
    with torch.no_grad():
        eager = tiny.lmm(attention="eager").hf_model
        theirs = eager(**encoding.inputs, output_attentions=True).attentions[1]
    pattern = Pattern("generated", "1")
    found = tiny.lmm().run(encoding, graph=pattern)[pattern].values[0]
    assert found.shape[2] == count
    assert apart(found, theirs[:, :, -count:]) < NEAR


@pytest.mark.parametrize("beside", [(), (SegmentMass(),)])
def test_rows_are_not_split_for_a_function(monkeypatch, beside):
    monkeypatch.setattr(row_program, "TILE_ELEMENTS", 1)
    monkeypatch.setattr(row_program, "LEAST_ROWS", 4)
    seen = []
    fn = vi.Fn("attn.hook_pattern", lambda x, hook: seen.append(x.shape[2]), layers=1)  # noqa: ARG005
    run = tiny.lmm().run(tiny.encode(), graph=vi.EditGraph(*beside, fn))
    assert seen == [tiny.encode().layout.length]
    assert apart(run.logits, tiny.plain(tiny.lmm(), tiny.encode())) < NEAR
