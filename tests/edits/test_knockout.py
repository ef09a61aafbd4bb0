"""Knockout against plain eager transformers with a hand-made mask."""

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.nodes import apart

NEAR = 2e-5


def masked(hf_model, inputs, cut, layers):
    """Plain eager transformers, given a 4-D additive mask of its own in some blocks."""
    length = inputs["input_ids"].shape[1]
    least = torch.finfo(torch.float32).min
    allowed = torch.ones(length, length).tril().bool() & inputs["attention_mask"][:, None].bool()
    mask = torch.zeros(allowed.shape).masked_fill(~(allowed & ~cut), least)[:, None]

    def replace(module, args, kwargs):
        del module
        assert kwargs["attention_mask"].shape == mask.shape
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
    ids, tokens = encoding.inputs["input_ids"], encoding.tokens
    places = torch.arange(ids.shape[1])
    kinds = {
        "image": ids == 4,
        "bos": ids == 1,
        "last": (places == ids.shape[1] - 1).expand(ids.shape),
        "text": (ids != 4) & (ids > 0),
        "first image": (ids == 4) & (((ids == 4).cumsum(-1)) <= 9),
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
def test_it_equals_a_mask_of_ones_own(flow, source, target, layers, blocks, attention):
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
    first = encoding.tokens.mask("query")[0].int().argmax()
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


def test_a_bad_flow_or_layer_is_refused_where_it_is_written():
    for flow in ("img -> query", "image query", "image -> "):
        with pytest.raises(vi.NotationError):
            vi.Knockout(flow)
    with pytest.raises(vi.NotationError, match="is not a layer range"):
        vi.Knockout("image -> query", "12-20")
