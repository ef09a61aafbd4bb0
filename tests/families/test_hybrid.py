"""Layers of linear attention between layers of full attention, whose heads are gated: Qwen3.5."""

import pytest
import torch

import vsink_interp as vi
from tests.families.plain import decoder_layers, hooked
from tests.families.test_families import NEAR, apart, encoded, lmm, logits
from vsink_interp import probes
from vsink_interp.edits import Contrast, Fn, ScaleHeads
from vsink_interp.families import qwen3_5
from vsink_interp.families.tiny import build

NAME, FULL = "Qwen3.5", (1, 3)


def none(value, hook):
    del hook
    return 0 * value


INSIDE = [
    probes.Pattern(),
    probes.SegmentMass(layers="1:"),
    probes.Activation("attn.hook_q"),
    probes.Activation("attn.hook_z", 2),
    vi.Knockout("image -> query"),
    vi.VAR(),
    Fn("attn.hook_result", none, layers="except 1"),
]


@pytest.mark.parametrize("node", INSIDE, ids=lambda node: type(node).__name__)
def test_nodes_inside_attention_must_name_blocks_that_have_a_pattern(node):
    with pytest.raises(vi.CapabilityError, match=r"at layer \d: linear attention.*layers='1,3'"):
        lmm(NAME).run(encoded(NAME, "one"), graph=node)


def test_a_model_says_which_blocks_offer_a_hook_point():
    model = lmm(NAME)
    assert model.layers_with("attn.hook_pattern") == model.layers_with("attn.hook_z") == FULL
    assert model.layers_with("hook_attn_out") == (0, 1, 2, 3)
    assert model.layers_with("vision_encoder.blocks.{layer}.hook_resid_pre") == (0, 1)
    edit = vi.Knockout("image -> query", model.layers_with("attn.hook_pattern"))
    assert model.run(encoded(NAME, "one"), graph=edit).logits.isfinite().all()
    with pytest.raises(vi.NotationError, match="outside the layers"):
        model.layers_with("hook_embed")
    with pytest.raises(vi.CapabilityError, match="scaled after its module"):
        lmm("InternVL").layers_with("vision_encoder.blocks.{layer}.hook_mlp_out")


def test_heads_are_read_behind_their_gate():
    """The gate restated from the projection; nothing of it is seen by the pattern."""
    model, encoding = lmm(NAME, "eager"), encoded(NAME, "one")
    attention = decoder_layers(model.hf_model)[1].self_attn
    seen = {}

    def keep(name):
        def hook(_, args, output):
            seen[name] = args[0] if name == "o" else output

        return getattr(attention, f"{name}_proj").register_forward_hook(hook)

    with hooked([keep(name) for name in "qvo"]), torch.no_grad():
        theirs = model.hf_model(**encoding.inputs, output_attentions=True)
    gate = seen["q"].unflatten(-1, (4, 2, 16))[..., 1, :]
    values = seen["v"].unflatten(-1, (2, 16)).repeat_interleave(2, -2)
    plain = torch.einsum("bhqk,bkhd->bqhd", theirs.attentions[0], values)
    probe, added = probes.Activation("attn.hook_z", 1), probes.Activation("attn.hook_result", 1)
    run = model.run(encoding, graph=probe | added)
    heads = run[probe].values[0]
    assert torch.equal(heads.flatten(-2), seen["o"])
    assert apart(heads, plain) > 0.1, "the gate does nothing"
    torch.testing.assert_close(heads, plain * gate.sigmoid(), atol=1e-5, rtol=1e-4)
    weight = attention.o_proj.weight.unflatten(1, (4, 16))
    by_head = torch.einsum("bqhd,mhd->bqhm", heads, weight)
    torch.testing.assert_close(run[added].values[0], by_head, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_scaled_heads_equal_a_scaled_input_of_the_projection(attention):
    model, encoding = lmm(NAME, attention), encoded(NAME, "one")
    projection = decoder_layers(model.hf_model)[3].self_attn.o_proj

    edit = ScaleHeads(3.0, layers=3, heads=(0,), rows="all")

    def scale(_, args):
        return (torch.cat([args[0][..., :16] * 3, args[0][..., 16:]], -1),)

    options = {"max_new_tokens": 5, "return_dict_in_generate": True, "output_logits": True}
    untouched = model.hf_model.generate(**encoding.inputs, **options)
    with hooked([projection.register_forward_pre_hook(scale)]):
        theirs = model.hf_model.generate(**encoding.inputs, **options)
    run = model.generate(encoding, graph=edit, max_new_tokens=5)
    assert apart(torch.stack(theirs.logits, 1), torch.stack(untouched.logits, 1)) > 0.01
    assert apart(run.logits, torch.stack(theirs.logits, 1)) < NEAR


def test_what_linear_attention_adds_can_be_taken_away():
    model, encoding = lmm(NAME), encoded(NAME, "one")
    inner = decoder_layers(model.hf_model)[0].linear_attn
    edit = Fn("hook_attn_out", none, layers=0)
    with hooked([inner.register_forward_hook(lambda *args: 0 * args[-1])]):
        theirs = logits(model.hf_model, encoding)
    assert apart(theirs, logits(model.hf_model, encoding)) > 0.1
    assert torch.equal(model.run(encoding, graph=edit).logits, theirs)


def test_what_would_leave_the_gate_out_is_refused():
    direction = torch.ones(64)
    for node in (
        probes.Contribution(layers=FULL),
        probes.LogitAttribution.along(direction, layers=FULL),
    ):
        with pytest.raises(vi.CapabilityError, match=r"gates its heads.*hook_result does"):
            lmm(NAME).run(encoded(NAME, "one"), graph=node)


def test_a_second_pass_does_not_reach_gated_heads():
    """They lie in a module there; elsewhere in the attention computation, which it reaches."""
    contrast, edit = Contrast("noise", edited=True), ScaleHeads(2.0, layers=1)
    with pytest.raises(vi.CapabilityError, match="inside attention"):
        lmm(NAME).generate(encoded(NAME, "one"), graph=contrast | edit, max_new_tokens=2)
    known = lmm("Qwen2.5-VL").generate(
        encoded("Qwen2.5-VL", "one"), graph=contrast | edit, max_new_tokens=2
    )
    assert known.generated.shape[1] == 2


def test_sinks_are_looked_for_where_attention_has_a_pattern():
    report = vi.find_sink_dims(lmm(NAME), share=0.02)
    assert set(report.layers) <= set(FULL)
    assert 0 < report.bos_mass < 1


def test_what_opens_a_thought_is_a_role_marker():
    text = "<|im_start|>user\ncount<|im_end|>\n<|im_start|>assistant\n{}"
    model = lmm(NAME)
    prompts = (text.format(end) for end in ("", "<think>\n"))
    short, long = (model.encode(None, prompt, chat=False) for prompt in prompts)
    extra = long.layout.length - short.layout.length
    assert extra > 0
    roles = [int(encoding.layout.mask("role").sum()) for encoding in (short, long)]
    assert roles[1] - roles[0] == extra


def test_a_mixture_of_experts_has_no_hidden_layer_and_offers_the_rest():
    config, processor = qwen3_5.tiny(
        "Qwen3_5Moe",
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
    )
    found = vi.LMM(build(config), processor).capabilities
    assert found.passed, str(found)
    assert found.family == NAME
    lacking = {one.hook: one.reason for one in found.hooks if not one.works}
    assert set(lacking) == {f"blocks.{{layer}}.mlp.hook_{at}" for at in ("pre", "post")}
    assert all("no such module" in reason for reason in lacking.values())
