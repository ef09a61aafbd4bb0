"""Laws 1, 4 and 5 in bfloat16 on a GPU; the CPU rehearses them, so that the tests work."""

from functools import cache, partial

import pytest
import torch

import vsink_interp as vi
from tests import nodes, restated, tiny
from tests.nodes import PROBES, apart, real
from tests.test_laws import longer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
EDITS = {
    "knockout": nodes.KNOCKOUTS["image to generated"],
    "scores": nodes.SIZED["scaled scores"],
    "heads": nodes.REPLACED["heads to zero"],
    "moved mass": vi.edits.Redistribute("bos system", "image", 0.9),
}
"""None that asks which tokens are sinks: rounding to bfloat16 can cross its threshold."""


@cache
def model(device, attention="sdpa"):
    hf_model = tiny.hf_model(torch.bfloat16, attention)
    lmm = vi.LMM(hf_model, tiny.processor(), sinks=tiny.SINKS, check=False)
    return lmm.to(device)


def on(device, encoding):
    return {name: value.to(device) for name, value in encoding.inputs.items()}


@torch.no_grad()
def plain(lmm, device, encoding):
    inputs = on(device, encoding)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    return lmm.hf_model(**inputs).logits.cpu()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("graph", [None, vi.EditGraph(*PROBES.values())], ids=["empty", "probes"])
@pytest.mark.parametrize("device", DEVICES)
def test_what_edits_nothing_changes_no_bit(device, graph, attention):
    lmm, encoding = model(device, attention), tiny.batch("one image", "short")
    run = lmm.run(encoding, graph=graph)
    assert torch.equal(run.logits.cpu(), plain(lmm, device, encoding))


@pytest.mark.parametrize("device", DEVICES)
def test_greedy_ids_are_those_of_generate(device):
    lmm, encoding = model(device), tiny.batch("one image", "short")
    want = lmm.hf_model.generate(
        **on(device, encoding), max_new_tokens=6, return_dict_in_generate=True, output_logits=True
    )
    run = lmm.generate(encoding, graph=PROBES["mass"], max_new_tokens=6)
    assert torch.equal(run.ids.cpu(), want.sequences.cpu())
    assert torch.equal(run.logits.cpu(), torch.stack(want.logits, 1).cpu())


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_equals_its_samples_as_far_as_the_plain_model_does(device, name):
    """In bfloat16 sums in another order differ, in the plain model as well."""
    lmm, edit, prompts = model(device), EDITS[name], ("one image", "image last")
    batch, width = tiny.batch(*prompts), tiny.batch(*prompts).layout.length
    together, bare = lmm.run(batch, graph=edit).logits.cpu(), plain(lmm, device, batch)
    for i, prompt in enumerate(prompts):
        alone = tiny.encode(prompt)
        pad = width - alone.layout.length
        own = apart(bare[i, pad:], plain(lmm, device, alone)[0])
        ours = lmm.run(alone, graph=edit).logits[0].cpu()
        assert apart(together[i, pad:], ours) < 4 * own + 0.05
        assert apart(ours, plain(lmm, device, alone)[0]) > 4 * own + 0.05, "the edit must act"


@pytest.mark.parametrize("name", ["knockout", "scores"])
@pytest.mark.parametrize("device", DEVICES)
def test_prefill_and_decode_equal_one_pass_as_far_as_in_the_plain_model(device, name):
    lmm, encoding = model(device), tiny.encode("one image")

    def difference(graph):
        run = lmm.generate(encoding, graph=graph, max_new_tokens=5)
        whole = lmm.run(longer(encoding, run.ids.cpu()), graph=graph).logits.cpu()
        return apart(run.logits.cpu(), whole[:, list(run.answer_rows)])

    assert difference(EDITS[name]) < 4 * difference(None) + 0.05


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_is_no_worse_than_eagers_own(device, attention):
    encoding, keep = tiny.batch("one image", "short"), real(tiny.batch("one image", "short"))
    cut = restated.knockout(encoding.layout, ["image"], ["query"], range(4), first_token=False)
    exact = restated.forward(tiny.lmm(attention="eager").hf_model, encoding.inputs, **cut)
    own = restated.forward(tiny.lmm(torch.bfloat16, "eager").hf_model, encoding.inputs, **cut)
    ours = model(device, attention).run(encoding, graph=nodes.KNOCKOUTS["image to query"])
    assert 0 < apart(ours.logits.cpu()[keep], exact[keep]) < 2 * apart(own[keep], exact[keep])


@pytest.mark.gpu
@pytest.mark.parametrize(
    "graph", [None, nodes.VARS["paper"], PROBES["mass"]], ids=["empty", "var", "mass"]
)
def test_a_decode_step_waits_for_the_gpu_a_few_times_only(graph, recwarn):
    """Beyond those of plain `generate` less than once a layer."""
    lmm, encoding = model("cuda"), tiny.encode("one image")
    inputs = on("cuda", encoding)

    def waits(generate, tokens):
        generate(max_new_tokens=2)  # what is made once is made now
        recwarn.clear()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            generate(max_new_tokens=tokens)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(one.message) for one in recwarn)

    ours = partial(lmm.generate, encoding, graph=graph)
    theirs = partial(lmm.hf_model.generate, **inputs)
    a_step = [(waits(one, 8) - waits(one, 4)) / 4 for one in (ours, theirs)]
    assert a_step[0] - a_step[1] < tiny.LAYERS
