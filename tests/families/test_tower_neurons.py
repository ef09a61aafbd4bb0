"""Neurons of the vision encoder's MLPs, and test-time registers, against hooks on plain models.

Each family's own modules are found here by their weights, not by the family's form: the neurons of
an MLP are what its last linear map takes.
"""

import pytest
import torch
from torch import nn

import vsink_interp as vi
from tests.families.test_families import NEAR, PROMPTS, TINY, encoded, lmm
from tests.families.test_towers import TOWERS, opened
from vsink_interp.edits import recipes
from vsink_interp.families import why_no_register

NEURONS = "vision_encoder.blocks.{layer}.mlp.hook_post"
LAYER, CHOSEN = 1, (3, 17)


def last_map(model, layer):
    """The last linear map in a vision layer's MLP, by the module tree alone."""
    tower = model.hf_model.get_submodule(model.hooked.family.vision_layers)[layer]
    parts = dict(tower.named_modules())
    mlp = next(parts[name] for name in ("mlp", "ffn", "feed_forward") if name in parts)
    maps = [part for part in mlp.modules() if isinstance(part, nn.Linear)]
    return next(one for one in maps if one.out_features == maps[0].in_features)


def plainly(model, encoding, hooks):
    """The logits of plain transformers with forward pre-hooks of torch: module -> new input."""
    handles = [
        module.register_forward_pre_hook(lambda _, args, fn=fn: (fn(args[0]), *args[1:]))
        for module, fn in hooks
    ]
    try:
        with torch.no_grad():
            return model.hf_model(**encoding.inputs).logits
    finally:
        for handle in handles:
            handle.remove()


def moving(to):
    """Algorithm 2, written as loops."""

    def move(value):
        rows = value.clone().reshape(-1, *value.shape[-2:])
        for row in rows:
            for r in CHOSEN:
                peak = max(float(x) for x in row[:, r])
                row[:, r] = 0.0
                row[to, r] = peak
        return rows.reshape(value.shape)

    return move


@pytest.mark.parametrize("name", TINY)
def test_neurons_are_read_and_moved(name):
    model, encoding = lmm(name), encoded(name, "one")
    seen, module = [], last_map(model, LAYER)
    plain = plainly(model, encoding, [(module, lambda x: seen.append(x) or x)])
    probe = vi.probes.Activation(NEURONS, LAYER)
    run = model.run(encoding, graph=probe)
    width = seen[0].shape[-1]
    values = run[probe].values[0]
    assert torch.allclose(values.flatten(0, -2), seen[0].reshape(-1, width), atol=1e-5)
    assert torch.equal(run.logits, plain)
    found = model.run(encoding, graph=vi.MoveNeurons(CHOSEN, 2, LAYER)).logits
    wanted = plainly(model, encoding, [(module, moving(2))])
    assert (found - wanted).abs().max() < NEAR
    assert (wanted - plain).abs().max() > 10 * NEAR


FREE = [name for name in TINY if not why_no_register(TINY[name].tiny()[0], TINY[name])]


def with_register(model, encoding):
    """A token of zeros in the tower, algorithm 2 with it as the last, and out again."""
    family = model.hooked.family
    first = model.hf_model.get_submodule(family.vision_layers)[0]

    def append(x):
        return torch.cat([x, x.new_zeros(x.shape[0], 1, x.shape[2])], 1)

    def drop(x):
        return x[:, :-1]

    hooks = [
        (first, append),
        (last_map(model, LAYER), moving(-1)),
        (model.hf_model.get_submodule(family.projector), drop),
    ]
    return plainly(model, encoding, hooks)


def test_which_towers_take_a_token():
    assert {"LLaVA-1.5", "LLaVA-NeXT", "LLaVA-OneVision", "PaliGemma", "Gemma 3"} <= {*FREE}
    assert not {"Qwen2-VL", "InternVL", "Mistral 3", "Mllama", "Gemma 4", "Idefics3"} & {*FREE}
    assert not opened("dinov2").sizes.no_register
    assert opened("dinov3").sizes.no_register  # its positions are counted from the last token


@pytest.mark.parametrize("name", [*FREE, "dinov2", "registers"])
def test_test_time_registers(name):
    model = opened(name) if name in TOWERS else lmm(name)
    encoding = model.encode(*PROMPTS["one"])
    graph = recipes.registers({LAYER: CHOSEN})
    found = model.run(encoding, graph=graph).logits
    wanted = with_register(model, encoding)
    plain = model.run(encoding).logits
    assert found.shape == plain.shape
    assert (found - wanted).abs().max() < NEAR
    assert (wanted - plain).abs().max() > 10 * NEAR
