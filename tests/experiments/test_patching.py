"""Patching by layer and segment, against forward hooks on plain transformers."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from vsink_interp import experiments as ex
from vsink_interp.experiments.depth import chosen_layers
from vsink_interp.experiments.patch_pair import refuse_odd

QUESTION = tiny.PROMPTS["one image"][1]
CLEAN, CORRUPTED = (tiny.image(0), QUESTION), (tiny.image(9), QUESTION)


def by_hooks(layer, group):
    """The last row's logits of the plain model, rows of one layer's input taken from the other."""
    model = tiny.lmm().hf_model
    block = model.model.language_model.layers[layer]
    rows = tiny.encode().layout.mask(group)[0] if isinstance(group, str) else group
    kept = []
    with torch.no_grad():
        hook = block.register_forward_pre_hook(lambda *seen: kept.append(seen[1][0].clone()))
        model(**tiny.lmm().encode(*CLEAN).inputs)
        hook.remove()

        def put(_, args):
            changed = args[0].clone()
            changed[:, rows] = kept[0][:, rows]
            return changed, *args[1:]

        hook = block.register_forward_pre_hook(put)
        logits = model(**tiny.lmm().encode(*CORRUPTED).inputs).logits
        hook.remove()
    return logits[0, -1]


def test_each_patch_is_that_of_a_forward_hook():
    found = ex.patching(tiny.lmm(), CLEAN, CORRUPTED, "red", "blue")
    assert {"bos", "image[0]", "query"} <= set(found.segments)
    assert sum(found.sizes) == tiny.encode().layout.length
    one, other = tiny.tokenizer().convert_tokens_to_ids(["red", "blue"])
    for layer in (0, 2):
        for j, group in enumerate(found.segments):
            logits = by_hooks(layer, group)
            want = float(logits[one] - logits[other])
            assert found.difference[layer, j] == pytest.approx(want, abs=1e-4)
    assert np.abs(found.difference - found.corrupted).max() > 0.1


def by_head(layer, head):
    """The last row's logits, what one head gives the output projection taken from the other run."""
    attention = tiny.lmm().hf_model.model.language_model.layers[layer].self_attn.o_proj
    size = tiny.WIDTH // tiny.HEADS
    own, kept = slice(head * size, (head + 1) * size), []
    with torch.no_grad():
        hook = attention.register_forward_pre_hook(lambda *seen: kept.append(seen[1][0].clone()))
        tiny.plain(tiny.lmm(), tiny.lmm().encode(*CLEAN))
        hook.remove()

        def put(_, args):
            changed = args[0].clone()
            changed[..., own] = kept[0][..., own]
            return (changed,)

        hook = attention.register_forward_pre_hook(put)
        logits = tiny.plain(tiny.lmm(), tiny.lmm().encode(*CORRUPTED))
        hook.remove()
    return logits[0, -1]


def test_by_head_each_entry_is_that_of_a_forward_hook():
    found = ex.patching(tiny.lmm(), CLEAN, CORRUPTED, "red", "blue", by="head", layers=(1, 3))
    assert (found.hook, found.by, found.places) == ("attn.hook_z", "head", (0, 1, 2, 3))
    one, other = tiny.tokenizer().convert_tokens_to_ids(["red", "blue"])
    for i, layer in enumerate(found.layers):
        for head in found.places:
            logits = by_head(layer, head)
            want = float(logits[one] - logits[other])
            assert found.difference[i, head] == pytest.approx(want, abs=1e-4)
    assert np.abs(found.difference - found.corrupted).max() > 0.01
    kv = ex.patching(
        tiny.lmm(), CLEAN, CORRUPTED, "red", "blue", by="head", hook="attn.hook_v", layers=0
    )
    assert kv.places == tuple(range(tiny.KV_HEADS))


def test_by_position_every_token_is_patched_alone():
    layout, what = tiny.encode().layout, "image query"
    found = ex.patching(
        tiny.lmm(), CLEAN, CORRUPTED, "red", "blue", by="position", rows=what, layers=(0, 2)
    )
    assert found.places == tuple(layout.mask(what)[0].nonzero().flatten().tolist())
    one, other = tiny.tokenizer().convert_tokens_to_ids(["red", "blue"])
    for place in (0, 4, len(found.places) - 1):
        logits = by_hooks(2, [found.places[place]])
        want = float(logits[one] - logits[other])
        assert found.difference[1, place] == pytest.approx(want, abs=1e-4)
    first = int(layout.mask("image")[0].nonzero()[0])
    assert found.names[found.places.index(first + 4)] == f"{first + 4} image[0] 4"
    assert [name.split()[1] for name in found.names[-3:]] == ["?", "assistant", ":"]


def test_a_window_patches_its_layers_at_once():
    """Against hooks on plain transformers that put back the output of two MLPs."""
    blocks, kept = tiny.lmm().hf_model.model.language_model.layers, {}
    image = tiny.encode().layout.mask("image")[0]

    def by_window(layers):
        def put(layer):
            def change(_, __, out):
                new = out.clone()
                new[:, image] = kept[layer][:, image]
                return new

            return change

        hooks = [blocks[at].mlp.register_forward_hook(put(at)) for at in layers]
        logits = tiny.plain(tiny.lmm(), tiny.lmm().encode(*CORRUPTED))[0, -1]
        for hook in hooks:
            hook.remove()
        return logits

    hooks = [
        block.mlp.register_forward_hook(lambda _, __, out, i=i: kept.update({i: out.clone()}))
        for i, block in enumerate(blocks)
    ]
    tiny.plain(tiny.lmm(), tiny.lmm().encode(*CLEAN))
    for hook in hooks:
        hook.remove()
    how = {"hook": "hook_mlp_out", "segments": ["image"]}
    found = ex.patching(tiny.lmm(), CLEAN, CORRUPTED, "red", "blue", window=2, **how)
    one, other = tiny.tokenizer().convert_tokens_to_ids(["red", "blue"])
    for layer, window in ((0, (0,)), (2, (1, 2)), (3, (2, 3))):
        logits = by_window(window)
        want = float(logits[one] - logits[other])
        assert found.difference[layer, 0] == pytest.approx(want, abs=1e-4)
    assert found.window == 2
    with pytest.raises(vi.InputError, match="window=0"):
        ex.patching(tiny.lmm(), CLEAN, CORRUPTED, "red", "blue", window=0, **how)


def test_what_does_not_go_together_is_refused():
    how = {"token": "red", "against": "blue"}
    for more, words in (
        ({"by": "head", "hook": "hook_resid_pre"}, "has no heads"),
        ({"by": "head", "segments": ["image"]}, "rows= names the tokens"),
        ({"rows": "image"}, "segments="),
        ({"segments": "image"}, "is a list"),
    ):
        with pytest.raises(vi.VsinkError, match=words):
            ex.patching(tiny.lmm(), CLEAN, CORRUPTED, **how, **more)
    with pytest.raises(vi.InputError, match="segment, head, position"):
        refuse_odd("heads", "hook_resid_pre", None, "prompt")
    by_head = ex.patching(tiny.lmm(), CLEAN, CORRUPTED, **how, by="head", layers=0)
    with pytest.raises(vi.InputError, match="by head, not by segment"):
        _ = by_head.segments


def test_the_whole_prompt_brings_all_of_it_back_and_bos_nothing():
    found = ex.patching(
        tiny.lmm(), CLEAN, CORRUPTED, "red", "blue", segments=("prompt", "bos"), layers=(0, 3)
    )
    np.testing.assert_allclose(found.recovered[:, 0], 1, atol=1e-4)
    np.testing.assert_allclose(found.recovered[:, 1], 0, atol=1e-4)
    assert found.difference.shape == (2, 2)
    assert abs(found.clean - found.corrupted) > 0.1


def test_equal_answers_are_refused():
    with pytest.raises(vi.InputError, match="the same in both runs"):
        ex.patching(tiny.lmm(), CLEAN, CORRUPTED, "red", "red")


def test_segments_of_other_lengths_are_refused():
    with pytest.raises(vi.LayoutError, match="matches tokens by segment"):
        ex.patching(tiny.lmm(), CLEAN, (tiny.image(9), "count"), "red", "blue")


def test_on_the_toy_the_colour_lies_in_the_image_first_and_in_the_query_last(sunk):
    asked, ticks = "what color is the circle?", []
    clean, corrupted = ((vi.toy.scene(seed).image, asked) for seed in (0, 4))
    found = ex.patching(
        sunk, clean, corrupted, tick=lambda done, total: ticks.append((done, total))
    )
    assert (found.token, found.against) == ("white", "green")
    image, query = found.segments.index("image[0]"), found.segments.index("query")
    assert found.recovered[0, image] > 0.9 > 0.1 > found.recovered[0, query]
    assert found.recovered[-1, query] > 0.9 > 0.1 > found.recovered[-1, image]
    assert ticks[-1] == (found.difference.size, found.difference.size)


def test_layers_and_hooks_are_written_as_everywhere():
    """In one notation, numpy's numbers and full hook names included."""
    lmm, how = tiny.lmm(), {"token": "red", "against": "blue", "segments": ("image",)}
    for layers in (range(2, 4), [2, 3], "2:4", np.array([2, 3])):
        assert chosen_layers(lmm, layers, ()) == (2, 3)
    with pytest.raises(vi.NotationError, match="no layer 99"):
        chosen_layers(lmm, 99, ())
    full = ex.patching(lmm, CLEAN, CORRUPTED, hook="blocks.2.attn.hook_z", **how)
    same = ex.patching(lmm, CLEAN, CORRUPTED, hook="attn.hook_z", layers=2, **how)
    assert (full.hook, full.layers) == (same.hook, same.layers) == ("attn.hook_z", (2,))
    assert np.array_equal(full.difference, same.difference)
