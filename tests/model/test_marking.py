"""`vsink`, `lsink` and `top(...)`: found by a pass before, against plain transformers."""

from functools import partial

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import restated, tiny
from tests.nodes import apart
from vsink_interp.model import marking
from vsink_interp.tokens.groups import parse_group, parse_top

TOP = "top(image,3,1)"
CUT = vi.Knockout(f"{TOP} -> query generated")


def strongest(name, count, layer, group="image"):
    """The tokens of a prompt by plain eager attention of the last row, mean over heads."""
    encoding = tiny.encode(name)
    with torch.no_grad():
        out = tiny.lmm(attention="eager").hf_model(**encoding.inputs, output_attentions=True)
    row = out.attentions[layer][0].double().mean(0)[-1].numpy()
    places = np.flatnonzero(encoding.layout.mask(group)[0].numpy())
    return sorted(places[np.argsort(-row[places])][:count].tolist())


def test_the_top_tokens_are_those_of_plain_attention():
    batch = vi.mark(tiny.lmm(), tiny.batch(), TOP, "top(query, 40%, 0)")
    for sample, name in enumerate(tiny.PROMPTS):
        alone, pad = tiny.encode(name).layout, batch.layout.length - tiny.encode(name).layout.length
        for word, group, count, layer in (
            (TOP, "image", 3, 1),
            ("top(query,40%,0)", "query", int(0.4 * int(alone.mask("query").sum())), 0),
        ):
            found = (batch.layout.mask(word)[sample].nonzero().flatten() - pad).tolist()
            assert found == strongest(name, count, layer, group)
    assert int(batch.layout.mask(TOP)[1].sum()) == 3


def test_an_edit_of_them_equals_plain_eager_attention():
    encoding = tiny.encode()
    chosen = torch.zeros(encoding.layout.length, dtype=torch.bool)
    chosen[strongest("one image", 3, 1)] = True

    def scores(layer, table):
        del layer
        length = table.shape[-1]
        rows = restated.is_a(encoding.layout, length, "query", "generated")[:, None, :, None]
        keys = torch.nn.functional.pad(chosen, (0, length - len(chosen)))
        return table.masked_fill(rows & keys, -torch.inf)

    reference = tiny.lmm(attention="eager").hf_model
    ids, logits = restated.answer(reference, encoding.inputs, 4, scores=scores)
    run = tiny.lmm().generate(encoding, graph=CUT, max_new_tokens=4)
    assert torch.equal(run.ids, ids)
    assert apart(run.logits, logits) < 2e-5
    assert run.layout.mask(TOP)[0].nonzero().flatten().tolist() == strongest("one image", 3, 1)


def test_a_batch_equals_its_samples_and_a_kept_mark_is_not_sought_again(monkeypatch):
    lmm, encoding = tiny.lmm(), tiny.batch("two images", "short", "one image")
    together = lmm.generate(encoding, graph=CUT, max_new_tokens=3)
    for sample, name in enumerate(("two images", "short", "one image")):
        alone = lmm.generate(tiny.encode(name), graph=CUT, max_new_tokens=3)
        assert apart(together.logits[sample], alone.logits[0]) < 8e-5
    marked = vi.mark(lmm, encoding, TOP)
    monkeypatch.setattr(marking, "Pattern", None)
    again = lmm.generate(marked, graph=CUT, max_new_tokens=3)
    assert torch.equal(again.logits, together.logits)


def test_they_are_tokens_as_all_others(tmp_path):
    lmm, encoding = tiny.lmm(), tiny.encode()
    graph = vi.EditGraph(
        vi.HideKeys(f"image & ~{TOP}"),
        vi.probes.SegmentMass(groups=(TOP, "image")),
        vi.Ablate("attn.hook_z", 2, rows=TOP),
        vi.DropKeys(TOP),
    )
    assert vi.EditGraph.from_json(graph.to_json()) == graph
    run = lmm.generate(encoding, graph=graph, max_new_tokens=3)
    mass = run[vi.probes.SegmentMass].values
    assert mass[..., 0].max() > 0.01
    run.save(tmp_path / "run")
    again = vi.Run.load(tmp_path / "run")
    assert torch.equal(again.layout.mask(TOP), run.layout.mask(TOP))
    assert again.layout.mask(TOP).sum() == 3
    own = torch.zeros_like(encoding.layout.roles)
    own[0, 4] = True
    cut = vi.Knockout("vsink -> query generated")
    mine = lmm.run(encoding.marked("vsink", own), graph=cut).logits
    assert apart(mine, lmm.run(encoding, graph=vi.HideKeys((4,))).logits) < 2e-5


def test_vision_sinks_are_the_outliers_of_the_plain_tower(monkeypatch):
    monkeypatch.setattr(marking, "patch_norms", partial(marking.patch_norms, ratio=1.1))
    lmm, encoding, seen = tiny.lmm(), tiny.batch("two images", "text", "one image"), []
    projector = lmm.hf_model.model.multi_modal_projector
    hook = projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    tiny.plain(lmm, encoding)
    hook.remove()
    norms = seen[0].detach().double().norm(dim=-1).numpy()  # image x patch, in order
    wanted = norms >= 1.1 * np.median(norms, axis=1, keepdims=True)
    found = vi.mark(lmm, encoding, "vsink").layout.mask("vsink")
    own = [found[0][encoding.layout.image_index[0] == n].numpy() for n in (0, 1)]
    own.append(found[2][encoding.layout.mask("image")[2]].numpy())
    np.testing.assert_array_equal(np.stack(own), wanted)
    assert 0 < wanted.sum() < wanted.size
    assert not found[1].any()
    run = lmm.run(encoding, graph=vi.Knockout("vsink & ~sink -> query"))
    assert apart(run.logits, tiny.plain(lmm, encoding)) > 1e-4


def test_sinks_of_the_language_model_have_a_short_name():
    lmm, encoding = tiny.lmm(), tiny.encode()
    short, long = (
        lmm.run(encoding, graph=vi.Knockout(f"{group} -> query generated")).logits
        for group in ("lsink", "sink & image")
    )
    assert torch.equal(short, long)
    assert apart(short, tiny.plain(lmm, encoding)) > 1e-3
    assert parse_group("image & ~lsink") == parse_group("image & ~sink")
    assert parse_group("~lsink") == parse_group("~sink ~image")


def test_what_cannot_be_found_is_refused():
    lmm = tiny.lmm()
    for wrong in ("top(image)", "top(image,0,1)", "top(sink,3,1)", "top(image,300%,1)"):
        with pytest.raises(vi.NotationError):
            vi.Knockout(f"{wrong} -> query")
    for wrong in ("image", "vsink image", "vsinks"):
        with pytest.raises(vi.NotationError, match="no word to find"):
            vi.mark(lmm, tiny.encode(), wrong)
    with pytest.raises(vi.LayoutError, match="image"):
        lmm.run(tiny.encode("text"), graph=CUT)
    with pytest.raises(vi.LayoutError, match="all of them"):
        lmm.run(tiny.encode(), graph=vi.Knockout("top(image,9,1) -> query"))
    with pytest.raises(vi.NotationError, match="layer 7"):
        lmm.run(tiny.encode(), graph=vi.Knockout("top(image,3,7) -> query"))
    with pytest.raises(vi.LayoutError, match=r"vi.mark"):
        tiny.encode().layout.mask("vsink")
    with pytest.raises(vi.LayoutError, match="no vsink token"):
        lmm.run(tiny.encode(), graph=vi.Knockout("vsink -> query"))
    context = lmm.compress(tiny.image(0), "count", vi.CompressedContext(keep=0.5), max_new_tokens=2)
    with pytest.raises(vi.CapabilityError, match="read already"):
        context.ask("count", graph=vi.Knockout(f"{TOP} -> generated"), max_new_tokens=2)
    assert parse_top("top(image[0], 5%, 2)").share
