"""Neurons of the vision encoder that are moved: how, and what is refused."""

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from tests.families.test_families import PROMPTS, lmm
from vsink_interp.edits import recipes
from vsink_interp.kernels import move_neurons
from vsink_interp.probes import Activation

NEURONS = "vision_encoder.blocks.{layer}.mlp.hook_post"


def test_the_kernel():
    value = torch.tensor([[[1.0, -9.0, 5.0], [4.0, 2.0, 6.0], [3.0, 3.0, 7.0]]])
    highest = move_neurons(value, [0, 1], 2, 1.0, signed=False, spare=0)
    assert highest.tolist() == [[[0, 0, 5], [0, 0, 6], [4, 3, 7]]]
    farthest = move_neurons(value, [1], 0, 0.5, signed=True, spare=1)
    assert farthest.tolist() == [[[1, -4.5, 5], [4, 0, 6], [3, 0, 7]]]


def test_each_image_of_a_prompt_has_its_own_peak():
    encoding, probe = tiny.encode("two images"), Activation(NEURONS, 1)
    before = tiny.lmm().run(encoding, graph=probe)[probe].values[0]
    edit = vi.MoveNeurons((3,), 4, 1, spare=1)
    run = tiny.lmm().run(encoding, graph=edit | probe)
    after = run[probe].values[0]
    assert torch.equal(after[:, 4, 3], before[..., 3].amax(1))
    assert torch.equal(after[:, 0], before[:, 0])
    assert after[:, [1, 2, 3, 5], 3].abs().max() == 0
    assert before[0, :, 3].max() != before[1, :, 3].max()


def test_a_register_is_the_last_token_of_the_tower_and_takes_the_peak():
    """Probes between see one token more; in generation as in one pass; JSON carries it."""
    graph, probe = recipes.registers({1: (3, 17)}), Activation(NEURONS, 1)
    model, encoding = tiny.lmm(), tiny.encode()
    run = model.run(encoding, graph=graph | probe)
    values = run[probe].values[0, 0]
    assert len(values) == tiny.N_IMAGE + 2  # CLS, patches, register
    assert values[:-1, [3, 17]].abs().max() == 0 < values[-1, [3, 17]].abs().max()
    assert vi.EditGraph.from_json(graph.to_json()) == graph
    answer = model.generate(encoding, graph=graph, max_new_tokens=2)
    assert nodes.apart(answer.logits[:, 0], run.logits[:, -1]) < 1e-4


def test_what_cannot_be_moved_is_refused():
    image, text = PROMPTS["two"]
    cases = [
        (lambda: vi.MoveNeurons((), 0, 1), vi.NotationError, "at least one neuron"),
        (lambda: vi.MoveNeurons((-1, 3), 0, 1), vi.NotationError, "from 0 on"),
        (lambda: vi.MoveNeurons((3,), 0, 1, spare=-1), vi.NotationError, "0 spared tokens"),
        (lambda: recipes.registers({}), vi.NotationError, "no neuron"),
        (lambda: recipes.registers({}, to=0), vi.NotationError, "no neuron"),
        (lambda: vi.MoveNeurons((1,), 0, 1, by="mean"), vi.NotationError, "max, size"),
        (lambda: run(vi.MoveNeurons((1, 48), 0, 1)), vi.NotationError, "neurons 0 to 47"),
        (lambda: run(vi.MoveNeurons((1,), 10, 1)), vi.NotationError, "tokens 0 to 9"),
        (lambda: run(vi.MoveNeurons((1,), -11, 1)), vi.NotationError, "tokens 0 to 9"),
        (lambda: run(vi.MoveNeurons((1,), 0, 2)), vi.NotationError, "layers 0 to 1|0 to 1"),
        (lambda: run(vi.MoveNeurons((1,), 0, 1), "text"), vi.LayoutError, "has no image"),
        (
            lambda: lmm("Qwen2-VL").run(image, text, vi.MoveNeurons((1,), 0, 1)),
            vi.LayoutError, "one by one",
        ),
        (
            lambda: lmm("InternVL").run(image, text, recipes.registers({1: (1,)})),
            vi.CapabilityError, "no token can be added.*internvl.*to=0",
        ),
    ]  # fmt: skip
    for refused, error, words in cases:
        with pytest.raises(error, match=words):
            refused()


def test_tokens_of_the_tower_are_counted_from_either_end():
    ends = [run(vi.MoveNeurons((0, 47), to, 1)).logits for to in (0, -10, 9, -1)]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[2], ends[3])
    assert nodes.apart(ends[0], ends[2]) > 1e-3


def run(graph, prompt="one image"):
    return tiny.lmm().run(tiny.encode(prompt), graph=graph)
