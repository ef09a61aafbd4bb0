"""Knockout against plain eager transformers with a hand-made mask."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import vsink_interp as vi
from tests import tiny
from tests.nodes import apart
from vsink_interp.engine import row_program

NEAR = 2e-5
ALWAYS, NEVER = 0, 10**9
"""Values of `rows.FEW`: whether keys are gathered however many are left."""


@pytest.fixture(params=[ALWAYS, NEVER], ids=["gathered", "masked"])
def gathers(request, monkeypatch):
    """Both forms of a knockout; the value says whether keys were gathered."""
    calls = []
    gathered = row_program.RowProgram._gathered

    def spy(self, *args):
        calls.append(args)
        return gathered(self, *args)

    monkeypatch.setattr(row_program, "FEW", request.param)
    monkeypatch.setattr(row_program.RowProgram, "_gathered", spy)

    def check(*, possible=True):
        assert bool(calls) == (request.param == ALWAYS and possible)

    return check


def masked(hf_model, inputs, cut, layers):
    """Plain eager transformers, given a 4-D additive mask of its own in some layers."""
    length = inputs["input_ids"].shape[1]
    least = torch.finfo(torch.float32).min
    allowed = torch.ones(length, length).tril().bool() & inputs["attention_mask"][:, None].bool()
    cut = cut if cut.ndim == 4 else cut[:, None]
    mask = torch.zeros(cut.shape).masked_fill(~(allowed[:, None] & ~cut), least)

    def replace(module, args, kwargs):
        del module
        assert kwargs["attention_mask"].shape[-2:] == mask.shape[-2:]
        return args, {**kwargs, "attention_mask": mask}

    blocks = hf_model.model.language_model.layers
    hooks = [blocks[i].register_forward_pre_hook(replace, with_kwargs=True) for i in layers]
    try:
        with torch.no_grad():
            return hf_model(**inputs).logits
    finally:
        for hook in hooks:
            hook.remove()


def edges(encoding, source, target):
    """By hand: which key may no longer be read by which row."""
    ids, tokens = encoding.inputs["input_ids"], encoding.layout
    places = torch.arange(ids.shape[1])
    kinds = {
        "image": ids == 4,
        "bos": ids == 1,
        "last": (places == ids.shape[1] - 1).expand(ids.shape),
        "text": (ids != 4) & (ids > 0),
        "all": ids > 0,
        "first image": (ids == 4) & (((ids == 4).cumsum(-1)) <= 9),
        "text after": (ids != 4) & (places > 11),
        "after": (ids != 4) & (places > (tokens.segments == 3).int().argmax(-1)[:, None]),
    }
    return kinds[target][:, :, None] & kinds[source][:, None]


CASES = [
    ("image -> query", "image", "after", ":", range(4)),
    ("image -> query", "image", "after", "2:", (2, 3)),
    ("image -> query", "image", "after", "except 1:3", (0, 3)),
    ("bos -> prompt & ~bos", "bos", None, "0,3", (0, 3)),
    ("image[0] -> query", "first image", "after", 1, (1,)),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("flow", "source", "target", "layers", "blocks"), CASES)
def test_it_equals_a_mask_of_ones_own(flow, source, target, layers, blocks, attention, gathers):
    encoding = tiny.batch("one image", "short")
    if target is None:
        cut = edges(encoding, "bos", "text") | edges(encoding, "bos", "image")
        cut &= ~(encoding.inputs["input_ids"] == 1)[:, :, None]
    else:
        cut = edges(encoding, source, target)
    want = masked(tiny.lmm(attention="eager").hf_model, encoding.inputs, cut, blocks)
    got = tiny.lmm(attention=attention).run(encoding, graph=vi.Knockout(flow, layers)).logits
    keep = encoding.inputs["attention_mask"].bool()
    assert apart(want[keep], tiny.plain(tiny.lmm(attention="eager"), encoding)[keep]) > 0.1
    assert apart(got[keep], want[keep]) < NEAR
    gathers(possible=False)  # the samples have their images in different places


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("prompt", "flow", "source", "target"),
    [
        ("one image", "image -> query", "image", "after"),
        ("one image", "bos -> query", "bos", "after"),
        ("two images", "image -> query", "image", "text after"),
    ],
)
def test_one_sample_may_gather_its_keys(prompt, flow, source, target, attention, gathers):
    encoding = tiny.encode(prompt)
    cut = edges(encoding, source, target)
    want = masked(tiny.lmm(attention="eager").hf_model, encoding.inputs, cut, range(4))
    got = tiny.lmm(attention=attention).run(encoding, graph=vi.Knockout(flow)).logits
    assert apart(want, tiny.plain(tiny.lmm(attention="eager"), encoding)) > 0.1
    assert apart(got, want) < NEAR
    # In "two images" text lies between them, and the rows are no one span of the target.
    gathers(possible=prompt == "one image")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_samples_that_look_alike_gather_together(attention, gathers):
    """And padding in front of them all stays hidden."""
    lmm = tiny.lmm(attention=attention)
    images = [tiny.image(0), tiny.image(1)]
    encoding = lmm.encode(images, ["count the red disc", "what is that blue"])
    graph = vi.Knockout("image -> query generated") | vi.Knockout("bos -> query generated")
    together = lmm.generate(encoding, graph=graph, max_new_tokens=5)
    plain = lmm.generate(encoding, max_new_tokens=5)
    assert apart(together.logits, plain.logits) > 0.1
    gathers()
    for i, prompt in enumerate(["count the red disc", "what is that blue"]):
        alone = lmm.generate(images[i], prompt, graph, max_new_tokens=5)
        assert apart(together.logits[i], alone.logits[0]) < NEAR


def left_padded(encoding, n):
    """The same prompt behind `n` tokens of padding, so that every pass is given a mask."""
    wide, tokens = (1, n), encoding.layout
    ids, seen = encoding.inputs["input_ids"], encoding.inputs["attention_mask"]
    inputs = {
        **encoding.inputs,
        "input_ids": torch.cat([ids.new_zeros(wide), ids], 1),
        "attention_mask": torch.cat([seen.new_zeros(wide), seen], 1),
    }
    layout = replace(
        tokens,
        segments=torch.cat([tokens.segments.new_zeros(wide), tokens.segments], 1),
        image_index=torch.cat([tokens.image_index.new_full(wide, -1), tokens.image_index], 1),
        roles=torch.cat([tokens.roles.new_zeros(wide), tokens.roles], 1),
        prompt_length=tokens.prompt_length + n,
        separators=None,
        turns=None,
    )
    return replace(encoding, inputs=inputs, layout=layout)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gathered_keys_stay_hidden_where_padding_is(attention, gathers):
    lmm, alone, graph = (
        tiny.lmm(attention=attention),
        tiny.encode(),
        vi.Knockout("image -> query generated"),
    )
    want, got = (
        lmm.generate(encoding, graph=graph, max_new_tokens=5).logits
        for encoding in (alone, left_padded(alone, 4))
    )
    assert apart(got, want) < NEAR
    gathers()


def per_head(cut, heads):
    """A cut of some heads alone, batch head query key."""
    chosen = torch.isin(torch.arange(tiny.HEADS), torch.tensor(heads))
    return cut[:, None] & chosen[:, None, None]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("heads", [(0,), (1, 2), (3, 0)])
def test_it_cuts_the_heads_that_are_named_alone(heads, attention):
    encoding = tiny.batch("one image", "short")
    reference, keep = tiny.lmm(attention="eager"), encoding.inputs["attention_mask"].bool()
    cut = edges(encoding, "image", "after")
    want = masked(reference.hf_model, encoding.inputs, per_head(cut, heads), range(4))
    every = masked(reference.hf_model, encoding.inputs, cut, range(4))
    edit = vi.Knockout("image -> query", heads=heads)
    got = tiny.lmm(attention=attention).run(encoding, graph=edit).logits
    assert apart(got[keep], want[keep]) < NEAR
    assert min(apart(want[keep], x[keep]) for x in (every, tiny.plain(reference, encoding))) > 0.05


@pytest.mark.parametrize("heads", [(4,), (), (-1,)])
def test_a_head_that_is_not_there_is_refused(heads):
    with pytest.raises(vi.NotationError, match="head"):
        tiny.lmm().run(tiny.encode(), graph=vi.Knockout("image -> query", heads=heads))


THEIRS = {
    "image to text": (["image -> prompt & ~image"], [("image", "text")]),
    "both ways": (
        ["image -> prompt & ~image", "prompt & ~image -> image"],
        [("image", "text"), ("text", "image")],
    ),
    "no encoding": (["image -> all"], [("image", "all")]),
}
"""Kaduri et al.'s configurations of the prefill: our flows, and the edges that theirs cut."""


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("max_layer", [-1, 1, 2])
def test_configurations_of_the_released_code(name, max_layer, attention, gathers):
    flows, pairs = THEIRS[name]
    graph = vi.EditGraph(*(vi.Knockout.released(flow, max_layer) for flow in flows))
    encoding = tiny.encode()
    cut = torch.stack([edges(encoding, *pair) for pair in pairs]).any(0)
    layers = [layer for layer in range(4) if layer > max_layer]
    want = masked(tiny.lmm(attention="eager").hf_model, encoding.inputs, cut, layers)
    got = tiny.lmm(attention=attention).run(encoding, graph=graph).logits
    assert apart(got, want) < NEAR
    assert apart(got, tiny.plain(tiny.lmm(attention="eager"), encoding)) > 0.1
    gathers(possible=name == "no encoding")


def test_the_released_layer_test_is_strict():
    assert vi.Knockout.released("image -> query", 11) == vi.Knockout("image -> query", "12:")
    assert vi.Knockout.released("image -> query", -1).resolved_layers(4) == (0, 1, 2, 3)
    with pytest.raises(vi.NotationError, match="there is no layer 4"):
        vi.Knockout.released("image -> query", 3).resolved_layers(4)
    with pytest.raises(vi.NotationError, match="-1 cuts every layer"):
        vi.Knockout.released("image -> query", -2)


FLOWS = {"prefill": "image -> query", "decode": "image -> generated"}


@pytest.mark.parametrize("phase", FLOWS)
def test_the_target_says_in_which_phase_it_acts(phase, gathers):
    """Of the parts of a cut of both, each is what it does alone."""
    lmm, encoding, probe = tiny.lmm(), tiny.encode(), vi.probes.Pattern("query generated")
    image = encoding.layout.mask("image")[0]
    run = lmm.generate(encoding, graph=vi.Knockout(FLOWS[phase]) | probe, max_new_tokens=4)
    mass = run[probe].values[..., image.nonzero().flatten()].sum(-1)[:, 0]
    queries = int(encoding.layout.mask("query").sum())
    parts = {"prefill": mass[..., :queries], "decode": mass[..., queries:]}
    assert (parts.pop(phase) == 0).all()
    assert (next(iter(parts.values())) > 0).all()
    gathers(possible=False)  # a probe wants the pattern over all keys


def blind(*edits):
    calls = []

    @vi.probe("hook_embed")
    def called(embedded, site) -> Float[Tensor, "batch query d_model"]:
        del site
        calls.append(0)
        return embedded

    return vi.EditGraph(called, *edits), calls


CUTS = vi.Knockout("prompt -> generated"), vi.Knockout("generated -> generated", "2:")


@pytest.mark.parametrize(
    "edits",
    [
        CUTS,
        (vi.Knockout("prompt -> generated", heads=(0, 1)), CUTS[1]),
        (vi.Knockout("bos -> prompt & ~bos"), vi.Knockout("~bos & prompt -> image")),
    ],
)
def test_cuts_that_together_leave_nothing_are_refused_before_the_run(edits):
    graph, calls = blind(*edits)
    with pytest.raises(vi.LayoutError, match=r"layers \[.*2, 3\] nothing to attend to"):
        tiny.lmm().generate(tiny.encode(), graph=graph, max_new_tokens=3)
    assert not calls


def test_cuts_of_different_heads_or_rows_leave_something():
    by_head = (vi.Knockout("prompt -> generated", heads=(0,)),
               vi.Knockout("generated -> generated", heads=(1, 3)))  # fmt: skip
    by_rows = vi.Knockout("bos -> query"), vi.Knockout("~bos & prompt -> image")
    for edits in (by_head, by_rows):
        graph, calls = blind(*edits)
        logits = tiny.lmm().generate(tiny.encode(), graph=graph, max_new_tokens=3).logits
        assert logits.isfinite().all()
        assert calls


def test_what_only_the_run_can_tell_is_refused_after_it():
    """A cut behind one of sinks, which keeps a row's last keys until then."""
    everything = vi.Fn("attn.hook_attn_scores", lambda x, hook: x.fill_(-torch.inf))  # noqa: ARG005
    sinks = vi.Knockout("image & ~sink -> query") | vi.Knockout("image & sink -> query")
    others = vi.Knockout("~image -> query")
    by_row = vi.Knockout("image -> query", heads=vi.TopHeads("sink & image", 1))
    for graph in (everything, sinks | others, others | by_row):
        with pytest.raises(vi.LayoutError, match="nothing to attend to"):
            tiny.lmm().run(tiny.encode(), graph=graph)


def test_the_first_generated_token_sees_the_image_unless_told_otherwise():
    """The last prompt row is a query row, and predicts that token."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    plain = lmm.generate(encoding, max_new_tokens=3).logits
    left, cut = (
        lmm.generate(
            encoding, graph=vi.Knockout("image -> generated", first_token=first), max_new_tokens=3
        ).logits
        for first in (False, True)
    )
    assert apart(left[:, 0], plain[:, 0]) < NEAR
    assert apart(left[:, 1], plain[:, 1]) > 0.1
    last = edges(encoding, "image", "last")
    want = masked(tiny.lmm(attention="eager").hf_model, encoding.inputs, last, range(4))
    assert apart(cut[:, 0], want[:, -1]) < NEAR
    assert apart(cut[:, 0], plain[:, 0]) > 0.1
    run = lmm.run(encoding, graph=vi.Knockout("image -> generated", first_token=True)).logits
    assert apart(run, want) < NEAR


def test_rows_before_the_first_target_do_not_change_a_bit():
    lmm, encoding = tiny.lmm(), tiny.encode()
    change = lmm.run(encoding, graph=vi.Knockout("image -> query")).logits != tiny.plain(
        lmm, encoding
    )
    first = encoding.layout.mask("query")[0].int().argmax()
    assert not change[:, :first].any()
    assert change[:, first].any()


def test_knockouts_join():
    """Two cuts at once are the cut of both."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    both = vi.Knockout("image -> query") | vi.Knockout("system -> query")
    joined = lmm.run(encoding, graph=both).logits
    assert (
        apart(joined, lmm.run(encoding, graph=vi.Knockout("image system -> query")).logits) < NEAR
    )
    assert apart(joined, lmm.run(encoding, graph=vi.Knockout("image -> query")).logits) > 0.1


def test_sinks_are_looked_for_where_they_are_named():
    chosen = {
        group: vi.Knockout("bos -> query", heads=vi.TopHeads(group, 1)) for group in ("sink", "bos")
    }
    assert [edit.needs_phi for edit in chosen.values()] == [True, False]
    assert vi.Knockout("sink -> query").needs_phi
    assert not vi.Knockout("image -> query").needs_phi


def test_a_bad_flow_or_layer_is_refused_where_it_is_written():
    for flow in ("img -> query", "image query", "image -> "):
        with pytest.raises(vi.NotationError):
            vi.Knockout(flow)
    with pytest.raises(vi.NotationError, match="is not a layer range"):
        vi.Knockout("image -> query", "12-20")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_row_that_would_lose_every_key_to_a_flow_of_sinks_keeps_them(attention):
    """Where all tokens are sinks no row can be cut; where one is none, rows that see it are."""
    lmm, encoding = tiny.fresh(attention), tiny.encode()
    with torch.no_grad():
        plain = lmm.hf_model(**encoding.inputs).logits
    phi = vi.probes.SinkValue(layers=1)
    values = lmm.run(encoding, graph=phi)[phi].values[0, 0]
    lowest = int(values.argmin())
    edit = vi.Knockout("sink -> query", 1)
    lmm.sinks = replace(tiny.SINKS, tau=float(values.min()) * 0.99)
    assert apart(lmm.run(encoding, graph=edit).logits, plain) < NEAR
    lmm.sinks = replace(tiny.SINKS, tau=float(values.sort().values[:2].mean()))
    pattern = vi.probes.Pattern("query", 1)
    run = lmm.run(encoding, graph=edit | pattern)
    rows, seen = run[pattern].coords["query"], run[pattern].values[0, 0]
    assert any(row >= lowest for row in rows)
    for place, row in enumerate(rows):
        is_query = bool(encoding.layout.mask("query")[0, row])
        only = is_query and row >= lowest
        assert bool((seen[:, place, lowest] == 1).all()) == only
        assert seen[:, place].isfinite().all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_of_padding_are_finite_and_stay_apart(attention):
    """A row that the mask lets see nothing has no softmax: its pattern is zero, and not NaN."""
    lmm, encoding = tiny.lmm(attention=attention), tiny.batch("one image", "short")
    pattern = vi.probes.Activation("attn.hook_pattern")
    values = lmm.run(encoding, graph=vi.Knockout("image -> query") | pattern)[pattern].values
    real = encoding.inputs["attention_mask"].bool()
    assert not real.all()
    assert values.isfinite().all()
    sums = values.sum(-1).transpose(2, 3)
    assert torch.allclose(sums[:, real], torch.ones(1))
    for sample, row in enumerate(real):
        assert not values[:, sample, :, row][..., ~row].any(), "a token attends to padding"
