"""`Ablate`, against plain transformers with hooks of torch's own."""

import re
from contextlib import contextmanager

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from vsink_interp.edits.ablate import DRAWS
from vsink_interp.probes import Activation

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
HEAD = tiny.WIDTH // tiny.HEADS


def layers():
    return tiny.lmm().hf_model.model.language_model.layers


@contextmanager
def hooked(*handles):
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def source(prompt="count"):
    return tiny.lmm().encode(tiny.image(9), prompt)


def plain_outputs(encoding, module):
    """What a module returns in a pass of plain transformers."""
    seen = []
    with hooked(module.register_forward_hook(lambda _, __, out: seen.append(out.detach()))):
        tiny.plain(tiny.lmm(), encoding)
    return seen[0]


def test_heads_to_zero():
    encoding, rows = tiny.encode(), slice(None)

    def silence(_, args):
        z = args[0].clone()
        z[:, rows, HEAD : 2 * HEAD] = 0
        return (z,)

    with hooked(layers()[2].self_attn.o_proj.register_forward_pre_hook(silence)):
        expected = tiny.plain(tiny.lmm(), encoding)
    found = tiny.lmm().run(encoding, graph=vi.Ablate("attn.hook_z", 2, heads=[1])).logits
    assert (found - tiny.lmm().run(encoding).logits).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, **CLOSE)
    full = vi.Ablate("blocks.2.attn.hook_z", heads=1)
    assert torch.equal(tiny.lmm().run(encoding, graph=full).logits, found)


@pytest.mark.parametrize("runs", ["one", "several"])
def test_an_mlp_to_its_mean_over_other_prompts(runs):
    encoding = tiny.encode()
    given = [source("count"), source("what is on the left?")][: 1 + (runs == "several")]
    outs = [plain_outputs(one, layers()[1].mlp)[0].double() for one in given]
    texts = [one.layout.mask("query")[0] for one in given]
    mean = torch.cat([out[text] for out, text in zip(outs, texts, strict=True)]).mean(0).float()
    query = encoding.layout.mask("query")[0]

    def flatten(_, __, out):
        return torch.where(query[None, :, None], mean, out)

    with hooked(layers()[1].mlp.register_forward_hook(flatten)):
        expected = tiny.plain(tiny.lmm(), encoding)
    seen = [tiny.lmm().run(one, graph=Activation("hook_mlp_out")) for one in given]
    edit = vi.Ablate("hook_mlp_out", 1, by="mean", source=seen, rows="query")
    found = tiny.lmm().run(encoding, graph=edit).logits
    assert (found - tiny.lmm().run(encoding).logits).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, **CLOSE)


def test_resampled_rows_are_rows_of_the_source():
    seen = tiny.lmm().run(source(), graph=Activation("attn.hook_z"))
    probe = Activation("attn.hook_z", layers=1)
    edit = vi.Ablate("attn.hook_z", 1, by="resample", source=seen, rows="query generated", seed=3)
    run = tiny.lmm().generate(tiny.encode(), graph=edit | probe, max_new_tokens=4)
    rows = run[probe].values[0, 0].flatten(1)
    chosen = run.layout.mask("query generated")[0, list(run[probe].labels("query"))]
    bank = seen[Activation("attn.hook_z")].values[1, 0].flatten(1)
    apart = torch.cdist(rows[chosen], bank)
    assert (apart.min(-1).values < 1e-5).all()
    used = apart.argmin(-1)
    assert 1 < len(used.unique()) <= DRAWS
    plain = tiny.lmm().generate(tiny.encode(), graph=probe, max_new_tokens=1)
    before = plain[probe].values[0, 0].flatten(1)
    image = plain.layout.mask("image")[0, : len(before)]
    torch.testing.assert_close(rows[: len(before)][image], before[image])
    other = vi.Ablate("attn.hook_z", 1, by="resample", source=seen, rows="query generated", seed=4)
    assert other != edit
    again = tiny.lmm().run(tiny.encode(), graph=other | probe)[probe].values[0, 0].flatten(1)
    assert not torch.equal(torch.cdist(again[-5:], bank).argmin(-1), used[:5])


def test_what_a_token_is_resampled_to_does_not_depend_on_its_batch():
    seen = tiny.lmm().run(source(), graph=Activation("attn.hook_z", 1))
    edit = vi.Ablate("attn.hook_z", 1, by="resample", source=seen, rows="query generated", seed=3)
    batch = tiny.batch("one image", "short")
    together = tiny.lmm().generate(batch, graph=edit, max_new_tokens=3).logits[1]
    alone = tiny.lmm().generate(tiny.encode("short"), graph=edit, max_new_tokens=3).logits[0]
    assert (together - alone).abs().max() < 4e-5


def test_it_is_a_value():
    seen = tiny.lmm().run(source(), graph=Activation("mlp.hook_post"))
    edit = vi.Ablate("mlp.hook_post", "1:3", by="mean", source=seen)
    again = vi.EditGraph.from_json(vi.EditGraph(edit).to_json())
    assert again == vi.EditGraph(edit)
    assert hash(again) == hash(vi.EditGraph(edit))
    assert len(repr(edit)) < 400, "96 numbers of 4 layers are not spelt out"
    found = [tiny.lmm().run(tiny.encode(), graph=graph).logits for graph in (edit, again)]
    assert torch.equal(*found)


def refused():
    seen = tiny.lmm().run(source(), graph=Activation("hook_mlp_out", layers=1))
    return [
        (lambda: vi.Ablate("attn.hook_pattern"), "no vector per token; to cut attention use"),
        (lambda: vi.Ablate("hook_mlp_out", by="median"), "did you mean 'mean'?|choose from: zero"),
        (lambda: vi.Ablate("hook_mlp_out", by="mean"), "need a source"),
        (lambda: vi.Ablate("hook_mlp_out", source=seen), "'zero' takes none"),
        (lambda: vi.Ablate("hook_mlp_out", heads=(1,)), "has no heads"),
        (lambda: vi.Ablate("attn.hook_z", by="mean", source=seen), "needs one record of it"),
        (lambda: vi.Ablate("hook_mlp_out", by="mean", source=seen, rows="sink"), "depend on sinks"),
    ]


@pytest.mark.parametrize("number", range(7))
def test_what_cannot_be_ablated_is_refused(number):
    make, said = refused()[number]
    with pytest.raises(vi.VsinkError, match=said):
        make()


def test_what_does_not_fit_the_model_or_the_prompt_is_refused():
    seen = tiny.lmm().run(source(), graph=Activation("hook_mlp_out", layers=1))
    with pytest.raises(vi.NotationError, match=re.escape("layers [0, 2, 3] were not recorded")):
        tiny.lmm().run(tiny.encode(), graph=vi.Ablate("hook_mlp_out", by="mean", source=seen))
    with pytest.raises(vi.NotationError, match="heads 0 to 1"):
        tiny.lmm().run(tiny.encode(), graph=vi.Ablate("attn.hook_v", heads=(2,)))
    with pytest.raises(vi.LayoutError, match="no image token"):
        tiny.lmm().run(tiny.encode("text"), graph=vi.Ablate("hook_mlp_out", rows="image"))
    with pytest.raises(vi.ResultError, match="no row of 'generated'"):
        vi.Ablate("hook_mlp_out", 1, by="mean", source=seen, rows="generated")
    wide = vi.Ablate("hook_mlp_out", 1, by="mean", source=((1, ((0.5, 1.0),)),))
    with pytest.raises(vi.CapabilityError, match="a run of the same model"):
        tiny.lmm().run(tiny.encode(), graph=wide)
