"""Every probe against plain transformers: attentions, hidden states, module hooks."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import nodes, restated, tiny
from vsink_interp import probes

ATTENTIONS = ("sdpa", "eager")
NEAR = {"atol": 2e-5, "rtol": 1e-4}


def rotate(x, cos, sin):
    """RoPE as LLaMA defines it; x is batch token head d_head."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos[:, :, None] + turned * sin[:, :, None]


class Seen(dict):
    """What plain transformers computed, by module path: its input and its output."""


@pytest.fixture(scope="module")
def plain():
    """One eager pass of an untouched model: never inside an LMM."""
    model, encoding, seen = tiny.hf_model(attention="eager"), tiny.encode(), Seen()

    def keep(path):
        def hook(module, args, kwargs, output):
            del module
            given = args[0] if args else kwargs.get("hidden_states")
            seen[path] = (given, output[0] if isinstance(output, tuple) else output)
            if path.endswith("rotary_emb"):
                seen[path] = output

        return hook

    for path, module in model.named_modules():
        module.register_forward_hook(keep(path), with_kwargs=True)
    with torch.no_grad():
        seen["out"] = model(**encoding.inputs, output_attentions=True, output_hidden_states=True)
    return seen


def heads(x, n):
    return x.unflatten(-1, (n, -1))


def want(seen, hook, layer):
    """The value of a hook point, from what plain transformers computed."""
    block = f"model.language_model.layers.{layer}"
    vision = f"model.vision_tower.encoder.layers.{layer}"
    cos, sin = seen.get("model.language_model.rotary_emb", (None, None))
    q = heads(seen[f"{block}.self_attn.q_proj"][1], tiny.HEADS) if layer is not None else None
    k = heads(seen[f"{block}.self_attn.k_proj"][1], tiny.KV_HEADS) if layer is not None else None
    if hook.startswith("vision_encoder"):
        return {
            "hook_resid_pre": lambda: seen[vision][0],
            "hook_attn_out": lambda: seen[f"{vision}.self_attn"][1],
            "mlp.hook_post": lambda: seen[f"{vision}.mlp.fc2"][0],
            "hook_mlp_out": lambda: seen[f"{vision}.mlp"][1],
            "hook_resid_post": lambda: seen[vision][1],
        }[hook.rpartition("}.")[2]]()

    def scores():
        left = rotate(q, cos, sin).transpose(1, 2)
        right = rotate(k, cos, sin).transpose(1, 2).repeat_interleave(2, 1)
        table = left @ right.transpose(2, 3) / 4.0  # the root of d_head = 16
        return table.masked_fill(~torch.ones(table.shape[-2:]).tril().bool(), -torch.inf)

    def result():
        z = heads(seen[f"{block}.self_attn.o_proj"][0], tiny.HEADS)
        weight = dict(tiny.lmm().hf_model.named_parameters())[f"{block}.self_attn.o_proj.weight"]
        return torch.stack(
            [z[:, :, h] @ weight[:, 16 * h : 16 * (h + 1)].T for h in range(tiny.HEADS)], 2
        )

    return {
        "hook_embed": lambda: seen["model.language_model.embed_tokens"][1],
        "vision_projector.hook_in": lambda: seen["model.multi_modal_projector"][0],
        "vision_projector.hook_out": lambda: seen["model.multi_modal_projector"][1],
        "hook_resid_pre": lambda: seen["out"].hidden_states[layer],
        "attn.hook_q": lambda: q,
        "attn.hook_k": lambda: k,
        "attn.hook_v": lambda: heads(seen[f"{block}.self_attn.v_proj"][1], tiny.KV_HEADS),
        "attn.hook_rot_q": lambda: rotate(q, cos, sin),
        "attn.hook_rot_k": lambda: rotate(k, cos, sin),
        "attn.hook_attn_scores": scores,
        "attn.hook_pattern": lambda: seen["out"].attentions[layer],
        "attn.hook_z": lambda: heads(seen[f"{block}.self_attn.o_proj"][0], tiny.HEADS),
        "attn.hook_result": result,
        "hook_attn_out": lambda: seen[f"{block}.self_attn.o_proj"][1],
        "hook_resid_mid": lambda: seen[block][0] + seen[f"{block}.self_attn.o_proj"][1],
        "mlp.hook_pre": lambda: seen[f"{block}.mlp.gate_proj"][1],
        "mlp.hook_post": lambda: (
            torch.nn.functional.silu(seen[f"{block}.mlp.gate_proj"][1])
            * seen[f"{block}.mlp.up_proj"][1]
        ),
        "hook_mlp_out": lambda: seen[f"{block}.mlp.down_proj"][1],
        "hook_resid_post": lambda: seen[block][1],
        "ln_final.hook_out": lambda: seen["out"].hidden_states[-1],
        "unembed.hook_out": lambda: seen["out"].logits,
    }[hook]()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("hook", nodes.HOOKS)
def test_an_activation_is_what_transformers_computes(plain, hook, attention):
    probe = probes.Activation(hook)
    got = tiny.lmm(attention=attention).run(tiny.encode(), graph=probe)[probe]
    stack = probe.point.stack
    layers = {None: [None], "blocks": range(4)}.get(stack, range(2))
    for place, layer in enumerate(layers):
        value = got.values if layer is None else got.values[place]
        torch.testing.assert_close(value, want(plain, hook, layer), **NEAR)
    assert got.axes == ("layer",) * (stack is not None) + probe.point.axes
    assert got.values.std() > 1e-3 or hook == "attn.hook_attn_scores"


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_residual_stream_is_the_hidden_states(plain, attention):
    states = plain["out"].hidden_states
    for at, found in (("pre", states[:4]), ("post", states[1:4])):
        probe = probes.Resid(at=at)
        got = tiny.lmm(attention=attention).run(tiny.encode(), graph=probe)[probe].values
        torch.testing.assert_close(got[: len(found)], torch.stack(found), **NEAR)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("rows", ["all", "query", "image", "bos query", "query generated"])
def test_the_pattern_is_the_attentions(plain, rows, attention):
    probe = probes.Pattern(rows)
    got = tiny.lmm(attention=attention).run(tiny.encode(), graph=probe)[probe]
    every = torch.stack(plain["out"].attentions)
    torch.testing.assert_close(got.values, every[:, :, :, list(got.coords["query"])], **NEAR)
    span = {"all": range(22), "query": range(12, 22), "image": range(3, 12), "bos query": range(22)}
    assert got.coords["query"] == tuple(span.get(rows, range(12, 22)))


def recorded(probe, attention="sdpa"):
    return tiny.lmm(attention=attention).run(tiny.encode(), graph=probe)[probe]


IDS = {"bos": [0], "system": [1, 2], "image": list(range(3, 12)), "query": list(range(12, 22))}


def test_segment_mass_sums_the_attention_by_segment(plain):
    got = recorded(probes.SegmentMass("query"))
    every = torch.stack(plain["out"].attentions)[:, :, :, 12:]
    for i, name in enumerate(got.labels("segment")):
        torch.testing.assert_close(
            got.values[..., i], every[..., IDS.get(name, [])].sum(-1), **NEAR
        )
    torch.testing.assert_close(got.values.sum(-1), torch.ones(4, 1, 4, 10))
    assert got.at(segment="image").values.max() > 0.3
    assert (got.at(segment="generated").values == 0).all()


def test_the_three_way_split_is_the_papers(plain):
    from vsink_interp.probes.mass import THREE_WAY

    got = recorded(probes.SegmentMass("query", groups=THREE_WAY)).values
    every = torch.stack(plain["out"].attentions)[:, :, :, 12:]
    text = IDS["bos"] + IDS["system"] + IDS["query"]
    torch.testing.assert_close(got[..., 0], every[..., IDS["image"]].sum(-1), **NEAR)
    torch.testing.assert_close(got[..., 1], every[..., text].sum(-1), **NEAR)
    assert (got[..., 2] == 0).all()


def test_attention_maps_are_the_mean_over_heads(plain):
    got = recorded(probes.AttentionMaps())
    every = torch.stack(plain["out"].attentions)[:, :, :, 12:, 3:12]
    torch.testing.assert_close(got.values, every.mean(2), **NEAR)


def sinks(plain, layer):
    phi = restated.phi(plain["out"].hidden_states[layer], tiny.SINKS.dims)[0]
    return phi >= tiny.SINKS.tau


def test_phi_is_that_of_the_hidden_states(plain):
    for probe, dims in (
        (probes.SinkValue(), tiny.SINKS.dims),
        (probes.SinkValue(dims=(1, 5)), (1, 5)),
    ):
        got = recorded(probe).values
        for layer in range(4):
            phi = restated.phi(plain["out"].hidden_states[layer], dims)
            np.testing.assert_allclose(got[layer], phi, rtol=1e-4)


def test_the_non_sink_ratio_by_loop(plain):
    got = recorded(probes.NonSinkRatio()).values
    different = 0
    for layer, head, row in np.ndindex(4, 4, 10):
        sink = sinks(plain, layer)[3:12]
        seen = plain["out"].attentions[layer][0, head, 12 + row, 3:12].double().numpy()
        np.testing.assert_allclose(
            got[layer, 0, head, row], seen[~sink].sum() / seen.sum(), rtol=1e-4
        )
        different += seen[sink].sum() > 0
    assert different > 50


def test_mass_by_sinks_divides_the_image(plain):
    groups = ("sink & image", "image & ~sink", "prompt & ~image")
    got = recorded(probes.SegmentMass(groups=groups)).values
    torch.testing.assert_close(got.sum(-1), torch.ones(4, 1, 4, 10))
    for layer in range(4):
        sink = torch.tensor(sinks(plain, layer)[3:12])
        seen = plain["out"].attentions[layer][:, :, 12:, 3:12]
        torch.testing.assert_close(got[layer, ..., 0], seen[..., sink].sum(-1), **NEAR)


def test_contribution_by_loop(plain):
    got = recorded(probes.Contribution()).values
    for layer in (0, 3):
        block = f"model.language_model.layers.{layer}.self_attn"
        value = heads(plain[f"{block}.v_proj"][1], tiny.KV_HEADS)[0].double()
        weight = tiny.lmm().hf_model.get_submodule(f"{block}.o_proj").weight.detach().double()
        alpha = plain["out"].attentions[layer][0].double()
        for row, key in ((0, 0), (3, 5), (9, 21), (4, 12)):
            norms = [
                (alpha[h, 12 + row, key] * (weight[:, 16 * h : 16 * (h + 1)] @ value[key, h // 2]))
                .norm()
                .item()
                for h in range(4)
            ]
            np.testing.assert_allclose(got[layer, 0, row, key], np.mean(norms), rtol=1e-4)


def test_logits_are_the_logits(plain):
    torch.testing.assert_close(recorded(probes.Logits()).values, plain["out"].logits, **NEAR)
    got = recorded(probes.Logits("query")).values
    torch.testing.assert_close(got, plain["out"].logits[:, 12:], **NEAR)


def test_a_function_is_a_probe(plain):
    every = torch.stack(plain["out"].attentions)
    torch.testing.assert_close(recorded(nodes.sharpest).values, every.amax(-1), **NEAR)
    out = torch.stack(
        [plain[f"model.language_model.layers.{i}.mlp.down_proj"][1] for i in range(4)]
    )
    torch.testing.assert_close(recorded(nodes.loudest).values, out.abs().amax(2), **NEAR)


def test_a_function_must_name_its_axes():
    with pytest.raises(vi.NotationError, match="must say what it returns"):

        @vi.probe("attn.hook_pattern")
        def mass(pattern, site):
            return pattern * site.n_keys


@pytest.mark.parametrize("steps", [1, 5])
def test_rows_of_generated_tokens_are_those_of_a_longer_prompt(steps):
    """Records of prefill and decode, joined, against one eager pass over prompt and answer."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    probe, phi, maps = probes.Pattern(), probes.SinkValue(), probes.AttentionMaps()
    run = lmm.generate(encoding, graph=probe | phi | maps, max_new_tokens=steps)
    model = tiny.lmm(attention="eager").hf_model
    with torch.no_grad():
        inputs = {
            **encoding.inputs,
            "input_ids": run.ids,
            "attention_mask": torch.ones_like(run.ids),
        }
        out = model(**inputs, output_attentions=True, output_hidden_states=True)
    last = 22 + steps - 1  # the last generated token is never read
    every = torch.stack(out.attentions)[:, :, :, 12:last, :last]
    assert run[probe].coords["query"] == tuple(range(12, last))
    torch.testing.assert_close(run[probe].values, every, **NEAR)
    torch.testing.assert_close(run[maps].values, every[..., 3:12].mean(2), **NEAR)
    for layer in range(4):
        want = restated.phi(out.hidden_states[layer][:, :last], tiny.SINKS.dims)
        np.testing.assert_allclose(run[phi].values[layer], want, rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: probes.Pattern("sink"),
        lambda: probes.Pattern("qery"),
        lambda: probes.Pattern(layers="1-2"),
        lambda: probes.Activation("hook_nowhere"),
        lambda: probes.Resid(at="between"),
        lambda: probes.SegmentMass(groups=()),
        lambda: probes.SegmentMass(groups=("image", "imag")),
    ],
)
def test_what_cannot_be_written(make):
    with pytest.raises((vi.NotationError, TypeError)):
        make()


def test_what_the_prompt_lacks_is_refused():
    lmm, text = tiny.lmm(), tiny.encode("text")
    for probe in (probes.AttentionMaps(), probes.NonSinkRatio(), probes.Resid("image")):
        with pytest.raises(vi.LayoutError, match="no image token"):
            lmm.run(text, graph=probe)
    with pytest.raises(vi.LayoutError, match="use generate"):
        lmm.run(text, graph=probes.Pattern("generated"))
    with pytest.raises(vi.LayoutError, match="no image"):
        lmm.run(text, graph=probes.Activation("vision_projector.hook_out"))
    with pytest.raises(vi.NotationError, match="beyond d_model = 64"):
        lmm.run(text, graph=probes.SinkValue(dims=(64,)))


@pytest.mark.parametrize("hook", ["attn.hook_z", "attn.hook_pattern", "hook_resid_post"])
def test_an_activation_of_some_rows_is_a_part_of_the_whole(hook):
    whole, part = probes.Activation(hook), probes.Activation(hook, rows="image")
    run = tiny.lmm().run(tiny.encode(), graph=whole | part)
    rows = run.layout.mask("image")[0].nonzero().flatten().tolist()
    assert run[part].labels("query") == tuple(rows)
    axis = run[whole].axis("query")
    assert torch.equal(run[part].values, run[whole].values.index_select(axis, torch.tensor(rows)))
    with pytest.raises(vi.NotationError, match="has no rows of tokens"):
        probes.Activation("vision_projector.hook_out", rows="image")
