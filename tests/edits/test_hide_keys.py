"""Ablation of tokens, and its random control."""

from dataclasses import replace

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.nodes import apart
from vsink_interp.probes import Pattern, SinkValue


def hidden(lmm, encoding, edit, sample=0):
    """Which keys the last row no longer sees, per layer."""
    probe = Pattern("query")
    pattern = lmm.run(encoding, graph=edit | probe)[probe].values
    seen = encoding.inputs["attention_mask"][sample].bool()
    return [
        set(((row == 0).all(0) & seen).nonzero().flatten().tolist())
        for row in pattern[:, sample, :, -1]
    ]


def test_places_are_hidden_from_the_target_alone():
    lmm, encoding = tiny.lmm(), tiny.encode()
    assert hidden(lmm, encoding, vi.HideKeys((4, 7), "1:3")) == [set(), {4, 7}, {4, 7}, set()]
    same = vi.Knockout("image -> query", "1:3")
    everything = vi.HideKeys("image", "1:3", target="query")
    assert (
        apart(lmm.run(encoding, graph=same).logits, lmm.run(encoding, graph=everything).logits)
        < 2e-5
    )


def test_sinks_are_hidden_layer_by_layer():
    lmm, encoding = tiny.lmm(), tiny.encode()
    phi = SinkValue()
    graph = vi.HideKeys("sink & image") | phi
    found = lmm.run(encoding, graph=graph)[phi].values[:, 0]
    image = encoding.layout.mask("image")[0]
    want = [set(((row >= tiny.SINKS.tau) & image).nonzero().flatten().tolist()) for row in found]
    assert hidden(lmm, encoding, vi.HideKeys("sink & image")) == want
    assert len({frozenset(places) for places in want}) > 1


def test_the_control_hides_as_many_others_anew_in_every_layer():
    lmm, encoding = tiny.lmm(), tiny.encode()
    chosen, control = (4, 5, 7), vi.HideKeys((4, 5, 7), control=1)
    drawn = hidden(lmm, encoding, control)
    image = set(range(3, 12))
    assert all(len(places) == 3 and places <= image - set(chosen) for places in drawn)
    assert len({frozenset(places) for places in drawn}) > 1
    assert hidden(lmm, encoding, control) == drawn, "the seed decides"
    assert hidden(lmm, encoding, vi.HideKeys(chosen, control=2)) != drawn
    fixed = hidden(lmm, encoding, vi.HideKeys(chosen, control=1, redraw=False))
    assert len({frozenset(places) for places in fixed}) == 1
    wide = hidden(lmm, encoding, vi.HideKeys(chosen, control=1, pool="query"))
    assert all(places <= set(range(12, 22)) for places in wide)
    last = hidden(lmm, encoding, vi.HideKeys((4,), "0", control=1, pool="bos"))
    assert last == [{0}, set(), set(), set()], "a pool with no token to spare"


SCENES = [(tiny.image(seed), "what is the red disc on this ?") for seed in range(24)]


def scenes(*numbers):
    """Scenes as one batch; their prompts are equal, their images are not."""
    return tiny.lmm().encode([SCENES[i][0] for i in numbers], [SCENES[i][1] for i in numbers])


def test_the_control_is_drawn_anew_for_every_scene():
    """Every token of the pool is about as likely: a fixed mask would hide 3 of 6 ever."""
    lmm, edit = tiny.lmm(), vi.HideKeys((4, 5, 7), "0", control=1)
    encoding = scenes(*range(24))
    drawn = [hidden(lmm, encoding, edit, sample)[0] for sample in range(24)]
    pool = {3, 6, 8, 9, 10, 11}
    assert all(len(places) == 3 and places <= pool for places in drawn)
    often = {place: sum(place in places for places in drawn) for place in pool}
    assert min(often.values()) >= 4, often  # of 24, 12 expected
    fixed = vi.HideKeys((4, 5, 7), control=1, redraw=False)
    per_scene = [hidden(lmm, encoding, fixed, sample) for sample in range(24)]
    assert all(len({frozenset(places) for places in layers}) == 1 for layers in per_scene)
    assert len({frozenset(layers[0]) for layers in per_scene}) > 5


def test_a_scene_has_its_draw_alone_and_in_a_batch_and_asked_otherwise_another():
    lmm, edit = tiny.lmm(), vi.HideKeys((4, 5, 7), control=1)
    alone = [hidden(lmm, lmm.encode(*SCENES[i]), edit) for i in (3, 5)]
    assert [hidden(lmm, scenes(9, 5, 3), edit, sample) for sample in (2, 1)] == alone
    ragged = lmm.encode([SCENES[3][0], tiny.image(99)], [SCENES[3][1], "count " * 9])
    shift = int((ragged.layout.segments[0] == 0).sum())
    assert shift > 0
    moved = [{place - shift for place in places} for places in hidden(lmm, ragged, edit)]
    assert moved == alone[0]
    other = lmm.encode(SCENES[3][0], "what is the blue disc on this ?")
    assert hidden(lmm, other, edit) != alone[0]


@pytest.mark.parametrize("tokens", ["sink & image", "sink", "image generated"])
def test_the_answer_read_at_once_is_drawn_as_the_one_generated(tokens):
    """Also where the answer adds to the tokens that are counted."""
    lmm, edit, probe = tiny.lmm(), vi.HideKeys(tokens, control=4, pool="all"), Pattern()
    encoding = scenes(0, 1)
    run = lmm.generate(encoding, graph=edit, max_new_tokens=4)
    read = lmm.run(encoding.with_answer(run.generated), graph=edit | probe)
    assert apart(read.logits[:, -5:-1], run.logits) < 2e-5
    assert (read[probe].values == 0).any()


def test_a_saved_layout_keeps_what_draws_follow_from(tmp_path):
    run = tiny.lmm().run(scenes(2, 3))
    run.save(tmp_path)
    digests = vi.Run.load(tmp_path).layout.digests
    assert digests == run.layout.digests == run.layout.select([0, 1]).digests
    assert len(set(digests)) == 2


def test_decode_steps_hide_what_the_prefill_hid():
    lmm, encoding, probe = tiny.lmm(), tiny.encode(), Pattern("query generated")
    edit = vi.HideKeys((4, 5, 7), control=1)
    run = lmm.generate(encoding, graph=edit | probe, max_new_tokens=4)
    rows = run[probe].values[:, 0, :, -3:, 3:12]
    want = [{place - 3 for place in places} for places in hidden(lmm, encoding, edit)]
    for layer, places in enumerate(want):
        gone = (rows[layer] == 0).all(0)
        assert all(set(row.nonzero().flatten().tolist()) == places for row in gone)


def test_a_row_keeps_its_last_resort():
    """Rows that see nothing but what is hidden stay as they are; the others lose it."""
    lmm, encoding, probe = tiny.lmm(), tiny.encode(), Pattern("all")
    edit = vi.HideKeys((0, 1, 2), target="prompt")
    before, after = (
        lmm.run(encoding, graph=g | probe)[probe].values[0, 0] for g in (vi.EditGraph(), edit)
    )
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert (after[:, 3:, :3] == 0).all()
    torch.testing.assert_close(after.sum(-1), torch.ones(4, 22))


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda: vi.HideKeys(()), "hides nothing"),
        (lambda: vi.HideKeys((-1, 3)), "hides nothing"),
        (lambda: vi.HideKeys("image", pool="query"), "belong to a control"),
        (lambda: vi.HideKeys("image", redraw=False), "belong to a control"),
        (lambda: vi.HideKeys("image", partial=True), "belong to a control"),
        (lambda: vi.HideKeys("img"), "choose from"),
        (lambda: vi.HideKeys("image", target="sink"), "cannot depend on sinks"),
        (lambda: vi.HideKeys("image", pool="sink & image"), "cannot depend on sinks"),
    ],
)
def test_what_cannot_be_written(edit, why):
    with pytest.raises(vi.NotationError, match=why):
        edit()


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (vi.HideKeys((3, 22)), "positions 0 to 21"),
        (vi.HideKeys("image[1]"), r"no image\[1\] token"),
        (vi.HideKeys("image & query"), "no token of this prompt"),
        (vi.HideKeys("image", target="generated"), "use generate"),
        (vi.HideKeys("image", control=0), "needs 9 other tokens of 'image', and there are 0"),
        (
            vi.HideKeys((3, 4, 5, 6, 7), control=0),
            "needs 5 other tokens of 'image', and there are 4",
        ),
        (vi.HideKeys("sink & image", control=0, pool="image[2]"), r"no image\[2\] token"),
    ],
)
def test_what_the_prompt_lacks_is_refused(edit, why):
    with pytest.raises(vi.LayoutError, match=why):
        tiny.lmm().run(tiny.encode(), graph=edit)


def test_a_pool_that_one_prompt_lacks_is_refused():
    edit = vi.HideKeys((0,), control=0, pool="image[1]")
    with pytest.raises(vi.LayoutError, match=r"needs 1 other tokens.*there are 0"):
        tiny.lmm().run(tiny.batch("two images", "one image"), graph=edit)
    later = vi.HideKeys("generated", control=0)
    with pytest.raises(vi.LayoutError, match="as many others as the prompt has of 'generated'"):
        tiny.lmm().generate(tiny.encode(), graph=later, max_new_tokens=3)


def test_what_is_refused_for_want_of_others_names_prompt_and_layer():
    """Where most of the image are sinks: which of them, a run alone can tell."""
    lmm = tiny.fresh()
    lmm.sinks = replace(tiny.SINKS, tau=1.4)
    sinks, graph = crowd(lmm), vi.HideKeys("sink & image", control=0)
    layer, sample = next((at, i) for at in range(4) for i in (0, 1) if 2 * len(sinks[at][i]) > 9)
    many = len(sinks[layer][sample])
    with pytest.raises(
        vi.LayoutError,
        match=rf"needs {many} other tokens of 'image', and there are {9 - many}, in prompt "
        rf"{sample} of the batch at layer {layer}; .*partial=True",
    ):
        lmm.run(scenes(0, 1), graph=graph)


def test_a_partial_control_hides_all_others_where_there_are_too_few():
    lmm = tiny.fresh()
    lmm.sinks = replace(tiny.SINKS, tau=1.4)
    whole, image = crowd(lmm), set(range(3, 12))
    partial = vi.HideKeys("sink & image", control=0, partial=True)
    enough = few = 0
    for sample in (0, 1):
        for layer, places in enumerate(hidden(lmm, scenes(0, 1), partial, sample)):
            sinks = whole[layer][sample]
            assert places <= image - sinks
            assert len(places) == min(len(sinks), 9 - len(sinks))
            enough, few = enough + (2 * len(sinks) <= 9), few + (2 * len(sinks) > 9)
    assert enough
    assert few


def crowd(lmm):
    """The sinks among the image tokens of two scenes, by layer, then scene."""
    phi = SinkValue("image")
    found = lmm.run(scenes(0, 1), graph=phi)[phi].values >= lmm.sinks.tau
    return [[{3 + int(i) for i in row.nonzero()} for row in layer] for layer in found]


def test_a_partial_control_is_the_control_where_there_are_enough():
    lmm, encoding = tiny.lmm(), scenes(0, 1)
    whole = vi.HideKeys((4, 5, 7), control=1)
    logits = [lmm.run(encoding, graph=one).logits for one in (whole, replace(whole, partial=True))]
    assert torch.equal(*logits)
    places = tuple(range(3, 12))
    for tokens, prompts in (("image", ["one image"]), (places, ["two images", "one image"])):
        none = vi.HideKeys(tokens, control=0, partial=True)
        with pytest.raises(vi.LayoutError, match=rf"are 0, in prompt {len(prompts) - 1} .*pool$"):
            lmm.run(tiny.batch(*prompts), graph=none)


def test_places_are_those_of_the_shortest_prompt():
    encoding = tiny.batch("one image", "short")
    places = int(encoding.layout.mask("prompt").sum(-1).min())
    assert places < encoding.layout.length
    tiny.lmm().run(encoding, graph=vi.HideKeys((places - 1,), target="prompt"))
    with pytest.raises(vi.LayoutError, match=f"positions 0 to {places - 1}"):
        tiny.lmm().run(encoding, graph=vi.HideKeys((places,)))
