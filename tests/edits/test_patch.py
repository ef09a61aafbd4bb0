"""Patch against plain transformers with forward hooks, and what it refuses."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import vsink_interp as vi
from tests import restated, tiny
from tests.nodes import apart
from vsink_interp.edits import Patch
from vsink_interp.probes import Activation, Resid

PROMPT = tiny.PROMPTS["one image"][1]
RESID = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post"]
MODULES = {
    "hook_attn_out": "self_attn",
    "hook_mlp_out": "mlp",
    "attn.hook_q": "self_attn.q_proj",
    "attn.hook_k": "self_attn.k_proj",
    "attn.hook_v": "self_attn.v_proj",
    "mlp.hook_pre": "mlp.gate_proj",
}
"""Hook points that are the output of a module."""
INPUTS = {"hook_resid_pre": "", "attn.hook_z": "self_attn.o_proj", "mlp.hook_post": "mlp.down_proj"}
"""Hook points that are its input."""
IN_ATTENTION = ["attn.hook_pattern", "attn.hook_attn_scores", "attn.hook_rot_q"]


def other(seed: int = 9, prompt: str = PROMPT) -> vi.Encoding:
    return tiny.lmm().encode(tiny.image(seed), prompt)


def recorded(hook: str, encoding: vi.Encoding | None = None) -> vi.Run:
    return tiny.lmm().run(encoding or other(), graph=Activation(hook))


def changed(act, layer, value):
    """A module's output, or the first of its outputs, after `act`."""
    if isinstance(value, tuple):
        return act(layer, value[0]), *value[1:]
    return act(layer, value)


def by_hooks(hook: str, layers, rows, encoding, source) -> torch.Tensor:
    """Logits of the plain model with rows of a module's value taken from another prompt."""
    model, found = tiny.lmm().hf_model, {}
    blocks = model.model.language_model.layers

    def each(act):
        """Hooks on every layer that hand its value to `act` and put back what that returns."""
        stack = ExitStack()
        for layer in layers:
            module = blocks[layer].get_submodule({**MODULES, **INPUTS}[hook])
            if hook in INPUTS:
                one = module.register_forward_pre_hook(
                    lambda _, args, layer=layer: changed(act, layer, args)
                )
            else:
                one = module.register_forward_hook(
                    lambda _, __, out, layer=layer: changed(act, layer, out)
                )
            stack.callback(one.remove)
        return stack

    def keep(layer, value):
        found[layer] = value.clone()
        return value

    def put(layer, value):
        return torch.where(rows[..., None], found[layer], value)

    with torch.no_grad():
        with each(keep):
            model(**source.inputs)
        with each(put):
            return model(**encoding.inputs).logits


@pytest.mark.parametrize("rows", ["image", "query", "bos system query"])
@pytest.mark.parametrize("hook", [*MODULES, *INPUTS])
def test_it_equals_forward_hooks(hook, rows):
    encoding, source = tiny.encode(), other()
    layers = (1, 2)
    wanted = by_hooks(hook, layers, encoding.layout.mask(rows), encoding, source)
    found = tiny.lmm().run(encoding, graph=Patch(hook, recorded(hook), layers, rows=rows)).logits
    assert apart(found, wanted) < 1e-5
    assert apart(wanted, tiny.plain(tiny.lmm(), encoding)) > 0.1


def test_a_pattern_equals_eager_attention():
    encoding, source, layers = tiny.encode(), other(), (1, 3)
    eager, theirs = tiny.lmm(attention="eager").hf_model, {}
    rows = encoding.layout.mask("query")[0]

    def keep(layer, weights, resid):
        del resid
        theirs[layer] = weights.clone()
        return weights

    def put(layer, weights, resid):
        del resid
        if layer in layers:
            weights[:, :, rows] = theirs[layer][:, :, rows]
        return weights

    restated.forward(eager, source.inputs, pattern=keep)
    wanted = restated.forward(eager, encoding.inputs, pattern=put)
    patch = Patch("attn.hook_pattern", recorded("attn.hook_pattern"), layers, rows="query")
    run = tiny.lmm().run(encoding, graph=patch)
    assert apart(run.logits, wanted) < 1e-5
    assert apart(run.logits, tiny.plain(tiny.lmm(), encoding)) > 0.01


@pytest.mark.parametrize("hook", [*RESID, *MODULES, *INPUTS, "unembed.hook_out"])
def test_a_run_patched_into_itself_keeps_every_bit(hook):
    encoding = tiny.batch("one image", "short")
    run = tiny.lmm().run(encoding, graph=Activation(hook))
    again = tiny.lmm().run(encoding, graph=Patch(hook, run))
    assert torch.equal(again.logits, tiny.plain(tiny.lmm(), encoding))


@pytest.mark.parametrize("hook", IN_ATTENTION)
def test_inside_attention_it_keeps_every_number_up_to_the_order_of_sums(hook):
    encoding = tiny.batch("one image", "short")
    probe = Activation(hook)
    run = tiny.lmm().run(encoding, graph=probe)
    again = tiny.lmm().run(encoding, graph=Patch(hook, run) | probe)
    keep = encoding.inputs["attention_mask"].bool()
    assert apart(again.logits[keep], tiny.plain(tiny.lmm(), encoding)[keep]) < 2e-5
    torch.testing.assert_close(again[probe].values[0], run[probe].values[0], atol=0, rtol=0)


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("hook", RESID)
def test_the_whole_residual_stream_of_another_image_gives_its_logits(hook, layer):
    source = recorded(hook)
    found = tiny.lmm().run(tiny.encode(), graph=Patch(hook, source, layer)).logits
    assert torch.equal(found, source.logits)
    assert apart(found, tiny.plain(tiny.lmm(), tiny.encode())) > 0.1


def test_image_rows_entering_layer_0_are_the_image():
    """Later on they are not: question rows have read the old image by then."""
    source = recorded("hook_resid_pre")
    early, late = (
        tiny.lmm().run(tiny.encode(), graph=Patch("hook_resid_pre", source, at, rows="image"))
        for at in (0, 3)
    )
    assert torch.equal(early.logits, source.logits)
    assert apart(late.logits, source.logits) > 0.1


def test_images_go_from_one_question_to_another():
    """A longer question, padding in front, and an image in another place."""
    source = recorded("hook_resid_pre", other(9, "count"))
    patch = Patch("hook_resid_pre", source, 0, rows="image[0]")
    batch = tiny.batch("one image", "two images", "short")
    found = tiny.lmm().run(batch, graph=patch).logits
    images = [tiny.image(9), [tiny.image(9), tiny.image(3)], tiny.image(9)]
    prompts = [tiny.PROMPTS[name][1] for name in ("one image", "two images", "short")]
    wanted = tiny.lmm().run(tiny.lmm().encode(images, prompts)).logits
    keep = batch.inputs["attention_mask"].bool()
    assert apart(found[keep], wanted[keep]) < 2e-5
    assert apart(found[keep], tiny.plain(tiny.lmm(), batch)[keep]) > 0.1


def test_each_sample_of_a_batch_has_a_source_of_its_own():
    batch = tiny.batch("one image", "short")
    prompts = [tiny.PROMPTS[name][1] for name in ("one image", "short")]
    others = tiny.lmm().encode([tiny.image(7), tiny.image(8)], prompts)
    source = tiny.lmm().run(others, graph=Activation("hook_resid_pre"))
    found = tiny.lmm().run(batch, graph=Patch("hook_resid_pre", source, 0, rows="image")).logits
    assert torch.equal(found, source.logits)


def test_a_record_alone_is_matched_by_position():
    record = recorded("hook_resid_pre")[Activation("hook_resid_pre")]
    by_run, by_record = (
        tiny.lmm().run(tiny.encode(), graph=Patch("hook_resid_pre", source, 1, rows="query"))
        for source in (recorded("hook_resid_pre"), record)
    )
    assert torch.equal(by_run.logits, by_record.logits)


def test_rows_that_were_recorded_in_part_are_enough():
    source = tiny.lmm().run(other(), graph=Resid("image", "1:3", at="post"))
    patch = Patch("hook_resid_post", source, 2, rows="image")
    whole = Patch("hook_resid_post", recorded("hook_resid_post"), 2, rows="image")
    found, wanted = (tiny.lmm().run(tiny.encode(), graph=p).logits for p in (patch, whole))
    assert torch.equal(found, wanted)
    with pytest.raises(vi.LayoutError, match="record rows='all'"):
        tiny.lmm().run(tiny.encode(), graph=replace(patch, rows="image query"))
    with pytest.raises(vi.NotationError, match=r"layers \[0, 3\] were not recorded"):
        tiny.lmm().run(tiny.encode(), graph=replace(patch, layers=":"))


def generated(n: int, graph=None) -> vi.Run:
    return tiny.lmm().generate(other(), graph=graph, max_new_tokens=n)


def test_an_answer_is_patched_in_as_well():
    source = generated(5, Activation("hook_resid_post"))
    patch = Patch("hook_resid_post", source, 3, rows="prompt generated")
    run = tiny.lmm().generate(tiny.encode(), graph=patch, max_new_tokens=5)
    assert torch.equal(run.ids[:, -5:], source.ids[:, -5:])
    assert torch.equal(run.logits, source.logits)
    plain = tiny.lmm().generate(tiny.encode(), max_new_tokens=5)
    assert not torch.equal(plain.generated, run.generated)
    with pytest.raises(vi.LayoutError, match="no generated token for row 26"):
        tiny.lmm().generate(tiny.encode(), graph=patch, max_new_tokens=7)


def test_generated_rows_are_left_alone_where_they_are_not_named():
    source = generated(5, Activation("hook_resid_post"))
    patch = Patch("hook_resid_post", source, 3)
    run = tiny.lmm().generate(tiny.encode(), graph=patch, max_new_tokens=7)
    assert torch.equal(run.logits[:, 0], source.logits[:, 0])
    assert apart(run.logits[:, 1], source.logits[:, 1]) > 0.1


def test_it_is_a_value():
    one, same = recorded("attn.hook_z"), recorded("attn.hook_z")
    different = recorded("attn.hook_z", tiny.encode())
    patch = Patch("attn.hook_z", one, "1:3", rows="image")
    assert patch == Patch("attn.hook_z", same, "1:3", rows="image")
    assert hash(patch) == hash(Patch("attn.hook_z", same, "1:3", rows="image"))
    assert patch != Patch("attn.hook_z", different, "1:3", rows="image")
    assert patch != Patch("attn.hook_z", one, "1:3", rows="query")
    assert len({patch, replace(patch), replace(patch, rows="query")}) == 2
    assert "<1x22x4x16 of 4 layers, " in repr(patch)
    one[Activation("attn.hook_z")].values.zero_()
    assert patch == Patch("attn.hook_z", same, "1:3", rows="image"), "it holds values of its own"


def test_json_cannot_carry_it(tmp_path):
    source = recorded("hook_resid_pre")
    patch = Patch("hook_resid_pre", source, 0)
    with pytest.raises(vi.CapabilityError, match=r"holds values of a run.*Run\.load"):
        vi.EditGraph(patch).to_json()
    source.save(tmp_path / "source")
    assert Patch("hook_resid_pre", vi.Run.load(tmp_path / "source"), 0) == patch
    tiny.lmm().run(tiny.encode(), graph=patch).save(tmp_path / "patched")
    assert repr(vi.Run.load(tmp_path / "patched").graph) == repr(vi.EditGraph(patch))


@pytest.mark.parametrize("hook", ["attn.hook_rot_k", "vision_projector.hook_out"])
def test_a_value_without_rows_is_refused(hook):
    with pytest.raises(vi.NotationError, match="no row per token"):
        Patch(hook, recorded("hook_resid_pre"))


@vi.probe("hook_resid_pre")
def norms(resid, site) -> Float[Tensor, "batch query"]:
    del site
    return resid.norm(dim=-1)


@pytest.mark.parametrize("graph", [None, Activation("hook_resid_post"), norms])
def test_a_source_without_the_record_is_refused(graph):
    run = tiny.lmm().run(other(), graph=graph)
    with pytest.raises(vi.ResultError, match=r"needs one record .* has 0: none\. Run once"):
        Patch("hook_resid_pre", run)


def test_two_records_are_refused():
    probe, edit = Activation("hook_resid_pre"), vi.edits.SetDims((3,), 1.0)
    run = tiny.lmm().run(other(), graph=probe | edit | probe)
    with pytest.raises(vi.ResultError, match="has 2"):
        Patch("hook_resid_pre", run)


@pytest.mark.parametrize(
    ("prompt", "rows", "why"),
    [
        ("short", "prompt", r"query tokens for .* of equal length are: .*image\[0\]"),
        ("two images", "image", r"9 image\[1\] tokens for 0"),
        ("text", "image", "no image token"),
        ("short", "role", "query tokens for"),
    ],
)
def test_tokens_without_counterpart_are_refused_with_what_would_work(prompt, rows, why):
    patch = Patch("hook_resid_pre", recorded("hook_resid_pre"), rows=rows)
    with pytest.raises(vi.LayoutError, match=why):
        tiny.lmm().run(tiny.encode(prompt), graph=patch)


def test_a_pattern_needs_every_key():
    patch = Patch("attn.hook_pattern", recorded("attn.hook_pattern"), rows="image")
    with pytest.raises(vi.LayoutError, match="query tokens for"):
        tiny.lmm().run(tiny.encode("short"), graph=patch)


def test_samples_must_pair():
    run = tiny.lmm().run(tiny.batch("one image", "short"), graph=Activation("hook_resid_pre"))
    with pytest.raises(vi.LayoutError, match="has 2 samples, the prompt 3"):
        tiny.lmm().run(
            tiny.batch("one image", "short", "text"),
            graph=Patch("hook_resid_pre", run, rows="image"),
        )


def test_another_model_is_refused():
    values = torch.zeros(4, 1, 22, 48)
    record = vi.Recorded(values, ("layer", "batch", "query", "d_model"), {"layer": (0, 1, 2, 3)})
    with pytest.raises(vi.CapabilityError, match="a run of the same model"):
        tiny.lmm().run(tiny.encode(), graph=Patch("hook_resid_pre", record, rows="image"))


def test_rows_cannot_depend_on_sinks():
    with pytest.raises(vi.NotationError, match="cannot depend on sinks"):
        Patch("hook_resid_pre", recorded("hook_resid_pre"), rows="sink & image")


@pytest.mark.parametrize(("hook", "module"), [("attn.hook_z", "o_proj"), ("attn.hook_v", "v_proj")])
def test_heads_and_positions_against_forward_hooks(hook, module):
    """Two heads of two layers at three positions, in a left-padded batch."""
    lmm, pair = tiny.lmm(), ["one image", "short"]
    encoding = tiny.batch(*pair)
    source = lmm.encode([tiny.image(9), tiny.image(8)], [tiny.PROMPTS[name][1] for name in pair])
    heads = (1,) if module == "v_proj" else (0, 3)
    patch = Patch(
        hook,
        lmm.run(source, graph=Activation(hook)),
        [1, 2],
        heads=list(heads),
        positions=(0, 3, -1),
    )
    real = encoding.inputs["attention_mask"].bool()
    rows = torch.zeros_like(real)
    for sample, kept in enumerate(real):
        places = kept.nonzero().flatten()
        rows[sample, places[[0, 3, len(places) - 1]]] = True
    d_head = tiny.WIDTH // tiny.HEADS
    columns = torch.zeros(tiny.WIDTH if module == "o_proj" else d_head * tiny.KV_HEADS, dtype=bool)
    for head in heads:
        columns[head * d_head : (head + 1) * d_head] = True
    found: dict[int, torch.Tensor] = {}
    attention = [layer.self_attn for layer in lmm.hf_model.model.language_model.layers]

    def run(inputs, act):
        def hooked(layer):
            if module == "o_proj":
                return attention[layer].o_proj.register_forward_pre_hook(
                    lambda _, args: (act(layer, args[0]),)
                )
            return attention[layer].v_proj.register_forward_hook(lambda _, __, out: act(layer, out))

        handles = [hooked(layer) for layer in (1, 2)]
        with torch.no_grad():
            logits = lmm.hf_model(**inputs).logits
        for handle in handles:
            handle.remove()
        return logits

    run(source.inputs, lambda layer, x: found.setdefault(layer, x.clone()))
    chosen = rows[..., None] & columns
    wanted = run(encoding.inputs, lambda layer, x: torch.where(chosen, found[layer], x))
    got = lmm.run(encoding, graph=patch).logits
    assert apart(wanted[real], tiny.plain(lmm, encoding)[real]) > 1e-3
    assert apart(got[real], wanted[real]) < 2e-5


def test_heads_and_positions_that_are_not_there_are_refused():
    run = recorded("attn.hook_z")
    with pytest.raises(vi.NotationError, match="has no heads"):
        Patch("hook_resid_pre", recorded("hook_resid_pre"), heads=1)
    with pytest.raises(vi.NotationError, match="heads 0 to 3"):
        tiny.lmm().run(other(), graph=Patch("attn.hook_z", run, heads=4))
    with pytest.raises(vi.NotationError, match="no position 99; the prompt has"):
        tiny.lmm().run(other(), graph=Patch("attn.hook_z", run, positions=99))
    with pytest.raises(vi.LayoutError, match="none of these positions belongs to 'image'"):
        tiny.lmm().run(other(), graph=Patch("attn.hook_z", run, positions=0, rows="image"))
