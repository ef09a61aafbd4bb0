"""What rows are kept under: another model, or another function, has another key."""

import copy
import threading
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

import vsink_interp as vi
from tests import tiny
from vsink_interp.graph import Edit
from vsink_interp.model import fingerprint, graph_key

STRENGTH = 2.0


def differs(one, other):
    return {name for name in one if one[name] != other[name]}


def tuned(lmm):
    model = lmm.hf_model
    loss = model(**tiny.encode().inputs).logits.float().square().mean()
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight.sub_(0.01 * weight.grad)
                weight.grad = None


def scaled_head(lmm):
    with torch.no_grad():
        lmm.hf_model.lm_head.weight.mul_(1.01)


def longer_answers(lmm):
    lmm.hf_model.generation_config.repetition_penalty = 1.2


def another_template(lmm):
    lmm.processor.chat_template += " "


CHANGES = {
    "weights": [tuned, scaled_head, lambda lmm: lmm.hf_model.to(torch.bfloat16)],
    "config": [longer_answers],
    "attention": [lambda lmm: lmm.hf_model.set_attn_implementation("eager")],
    "processor": [another_template],
}


@pytest.mark.parametrize(
    ("part", "change"), [(part, change) for part, all_ in CHANGES.items() for change in all_]
)
def test_a_change_after_opening_is_seen(part, change):
    lmm = tiny.fresh()
    lmm = vi.LMM(lmm.hf_model, copy.deepcopy(lmm.processor), check=False)
    before = fingerprint(lmm)
    lmm.generate(tiny.batch(), max_new_tokens=2)
    assert fingerprint(lmm) == before, "a run changes nothing"
    change(lmm)
    assert part in differs(before, fingerprint(lmm)) <= {part, "config"}


def test_the_same_weights_have_the_same_fingerprint(tmp_path):
    lmm = tiny.fresh()
    before = fingerprint(lmm)
    for folder in ("a", "b"):
        lmm.hf_model.save_pretrained(tmp_path / folder)
        lmm.processor.save_pretrained(tmp_path / folder)
    one, other = (vi.LMM.from_pretrained(tmp_path / folder, check=False) for folder in "ab")
    assert differs(fingerprint(one), fingerprint(other)) == {"model"}
    assert fingerprint(lmm) == before, "saving changes nothing"


@pytest.mark.parametrize("family", ["Qwen3-VL", "InternVL", "Gemma 3", "Idefics3"])
def test_families_have_one(family):
    one, other = vi.LMM.tiny(family), vi.LMM.tiny(family)
    assert fingerprint(one) == fingerprint(other)


def shifting(by):
    return lambda value, hook: value + by  # noqa: ARG005


def halved(value, hook):
    del hook
    return value / 2


def by_global(value, hook):
    del hook
    return value * STRENGTH


def defaulted(factor):
    def scale(value, hook, factor=factor):
        del hook
        return value * factor

    return scale


class Method:
    def __init__(self, by):
        self.by = by

    def __call__(self, value, hook):
        del hook
        return value + self.by


def key(fn, **more):
    return graph_key(vi.EditGraph(vi.Fn("hook_resid_mid", fn, **more)))


def test_functions_of_one_name_are_told_apart_by_what_they_do(monkeypatch):
    functions = [
        lambda value, hook: value + 1,  # noqa: ARG005
        lambda value, hook: value + 2,  # noqa: ARG005
        lambda value, hook: value - 1,  # noqa: ARG005
        shifting(1), shifting(2), shifting(torch.ones(3)), shifting(torch.zeros(3)),
        halved, by_global, defaulted(1), defaulted(2),
        partial(defaulted(1), factor=3), partial(defaulted(1), factor=4),
    ]  # fmt: skip
    keys = [tuple(key(fn)) for fn in functions]
    assert len(set(keys)) == len(keys)
    assert keys[3] == tuple(key(shifting(1))) and keys[5] == tuple(key(shifting(torch.ones(3))))
    monkeypatch.setitem(globals(), "STRENGTH", 3.0)
    assert tuple(key(by_global)) != keys[8]


def test_what_cannot_be_told_apart_asks_for_a_key():
    for fn in (Method(1), shifting(threading.Lock()), shifting(Method(1))):
        with pytest.raises(vi.ResultError, match=r"Fn\(hook, function, key="):
            key(fn)
    assert key(Method(1), key="one more") == key(Method(2), key="one more")
    assert key(Method(1), key="one more") != key(Method(1), key="two more")


def own_edit(by):
    @dataclass(frozen=True)
    class Own(Edit):
        hook: str = "hook_resid_mid"
        layers: str = ":"

        def apply(self, value: Tensor, site: object) -> Tensor:
            del site
            return value + by

    return Own()


def test_edits_of_ones_own_are_told_apart_by_their_code():
    one, other = (graph_key(vi.EditGraph(own_edit(by))) for by in (1, 2))
    assert one == graph_key(vi.EditGraph(own_edit(1)))
    assert one != other


def test_nodes_of_ours_have_keys():
    from tests import nodes

    graph = vi.EditGraph(*nodes.EDITS.values(), *nodes.EVERY_PROBE.values())
    keys = graph_key(graph)
    assert len(set(keys)) == len({repr(node) for node in graph})
    assert keys == graph_key(copy.deepcopy(graph))
