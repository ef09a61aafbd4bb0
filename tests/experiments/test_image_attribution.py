"""Attribution to image tokens, against autograd over plain transformers."""

import numpy as np
import pytest
import torch
from PIL import ImageFilter

import vsink_interp as vi
from tests import tiny
from vsink_interp import experiments as ex

IMAGE, QUESTION = tiny.PROMPTS["one image"]


def ids(*words):
    return tiny.tokenizer().convert_tokens_to_ids(list(words))


def middles(steps):
    return [((step + 0.5) / steps, 1 / steps) for step in range(steps)]


def trapezoids(nodes):
    """Each node with half of the parts on both of its sides."""
    edges = [nodes[0], *nodes, nodes[-1]]
    return [(edges[i], (edges[i + 1] - edges[i - 1]) / 2) for i in range(1, len(nodes) + 1)]


def by_autograd(nodes, baseline, *words, encoding=None):
    """Integrated gradients at the input of the first layer of the plain model.

    `nodes` are places on the way and their weights, `baseline` a name or the tokens themselves.
    """
    model, encoding = tiny.lmm(attention="eager").hf_model, encoding or tiny.encode()
    image = encoding.layout.mask("image[0]")[0]
    ends = {}

    def logit(share):
        def put(_, args):
            value = args[0].detach().clone()
            own = value[:, image]
            named = {"mean": own.mean(1, keepdim=True), "zero": torch.zeros_like(own)}
            base = named[baseline] if isinstance(baseline, str) else baseline
            moved = (base + share * (own - base)).requires_grad_(True)
            ends.update(own=own, base=base, moved=moved)
            value[:, image] = moved
            return (value, *args[1:])

        hook = model.model.language_model.layers[0].register_forward_pre_hook(put)
        logits = model(**encoding.inputs).logits[0, -1]
        hook.remove()
        found = [logits[one] for one in ids(*words)]
        return found[0] - sum(found[1:])

    total = 0
    for node, weight in nodes:
        total = total + weight * torch.autograd.grad(logit(node), ends["moved"])[0]
    values = ((ends["own"] - ends["base"]) * total).sum(-1)[0]
    with torch.no_grad():
        reached = float(logit(1.0) - logit(0.0))
    return values.double().numpy(), reached


@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_integrated_gradients(baseline):
    ticks = []
    found = ex.integrated_gradients(
        tiny.lmm(), IMAGE, QUESTION, "red", against="blue", steps=3, baseline=baseline,
        tick=lambda done, total: ticks.append((done, total)),
    )  # fmt: skip
    values, reached = by_autograd(middles(3), baseline, "red", "blue")
    np.testing.assert_allclose(found.values, values, atol=1e-4)
    assert found.reached == pytest.approx(reached, abs=1e-4)
    assert (found.word, found.against, len(found.values)) == ("red", "blue", tiny.N_IMAGE)
    assert ticks == [(1, 3), (2, 3), (3, 3)]


def entering(image):
    """The image tokens as they enter the first layer of the plain model."""
    seen, encoding = [], tiny.lmm().encode(image, QUESTION)
    model = tiny.lmm(attention="eager").hf_model
    layer = model.model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(**encoding.inputs)
    hook.remove()
    return seen[0][:, encoding.layout.mask("image")[0]]


def test_steps_go_where_the_logit_moves_until_the_parts_add_up():
    ticks = []
    found = ex.integrated_gradients(
        tiny.lmm(), IMAGE, QUESTION, "red", gap=0.01, tick=lambda done, _: ticks.append(done)
    )
    values, reached = by_autograd(trapezoids(found.nodes.tolist()), "mean", "red")
    np.testing.assert_allclose(found.values, values, atol=1e-4)
    assert found.reached == pytest.approx(reached, abs=1e-4)
    assert found.gap <= 0.01
    assert "at most 1.0% was asked for" in str(found)
    parts = np.diff(found.nodes)
    assert ticks == [*range(1, len(found.nodes) + 1)]
    assert found.nodes[0] == 0
    assert found.nodes[-1] == 1
    assert parts.max() > parts.min()
    few = ex.integrated_gradients(tiny.lmm(), IMAGE, QUESTION, "red", gap=1e-9, most=11)
    assert len(few.nodes) == 11
    assert "in 11 steps: the most that were allowed" in str(few)


def test_the_way_may_begin_at_another_image():
    blurred = IMAGE.filter(ImageFilter.GaussianBlur(6))
    values, reached = by_autograd(middles(2), entering(blurred), "red")
    found = ex.integrated_gradients(tiny.lmm(), IMAGE, QUESTION, "red", steps=2, baseline=blurred)
    np.testing.assert_allclose(found.values, values, atol=1e-4)
    assert found.reached == pytest.approx(reached, abs=1e-4)
    assert found.provenance["settings"]["baseline"] == vi.model.digest([([blurred], "")])
    other, _ = by_autograd(middles(2), "mean", "red")
    assert np.abs(values - other).max() > 1e-2


def test_they_add_up_with_many_steps():
    found = ex.integrated_gradients(tiny.lmm(), IMAGE, QUESTION, "red", steps=48)
    assert abs(found.reached) > 0.1
    assert found.gap < 0.05
    assert f"gap {found.gap:.1%}" in str(found)
    assert len(found.plot().axes) == 4


def test_of_a_later_word_and_of_the_first_of_several_images():
    """The second image stays as it is: what the first adds is what its tokens add up to."""
    images, text = tiny.PROMPTS["two images"]
    lmm, after = tiny.lmm(), "a big"
    encoding = lmm.encode(images, text)
    longer = lmm.encode([images], [f"{encoding.prompts[0]} {after}"], chat=False)
    values, reached = by_autograd(middles(2), "mean", "disc", encoding=longer)
    found = ex.integrated_gradients(lmm, images, text, "disc", after=after, steps=2)
    np.testing.assert_allclose(found.values, values, atol=1e-4)
    assert found.reached == pytest.approx(reached, abs=1e-4)
    assert abs(reached) > 0.01


def chefer(word):
    """Per layer the positive part of pattern times gradient, mean over heads: query x key."""
    model = tiny.lmm(attention="eager").hf_model
    out = model(**tiny.encode().inputs, output_attentions=True)
    grads = torch.autograd.grad(out.logits[0, -1, ids(word)[0]], out.attentions)
    both = zip(out.attentions, grads, strict=True)
    return [(a * g).detach().double().clamp(min=0).mean(1)[0].numpy() for a, g in both]


def test_gradient_times_attention():
    layers, image = chefer("red"), tiny.encode().layout.mask("image")[0].numpy()
    found = ex.gradient_attention(tiny.lmm(), IMAGE, QUESTION, "red")
    relevance = np.eye(len(image))
    for layer in layers:
        relevance = relevance + layer @ relevance
    np.testing.assert_allclose(found.values, relevance[-1, image], atol=1e-4, rtol=1e-4)
    some = ex.gradient_attention(tiny.lmm(), IMAGE, QUESTION, "red", layers="1:3", rollout=False)
    wanted = (layers[1] + layers[2])[-1, image]
    np.testing.assert_allclose(some.values, wanted, atol=1e-5, rtol=1e-4)
    assert wanted.max() > 1e-4
    assert np.isnan(some.reached)
    assert len(some.plot().axes) == 2


def test_by_default_it_is_of_the_models_own_word_and_through_edits():
    lmm, cut = tiny.lmm(), vi.Knockout("image -> query")
    own = int(lmm.run(tiny.encode(), graph=cut).logits[0, -1].argmax())
    found = ex.integrated_gradients(lmm, IMAGE, QUESTION, graph=cut, steps=1)
    assert found.word == lmm.tokenizer.decode([own]).strip()
    np.testing.assert_array_equal(found.values, 0)  # the answer's row is one of the query


@pytest.mark.parametrize(
    ("logit", "error", "why"),
    [
        (float("inf"), vi.ResultError, "no number"),
        (float("nan"), vi.CapabilityError, "turned unembed.hook_out .* NaN"),
    ],
)
def test_a_logit_that_is_no_number_ends_it(logit, error, why):
    def spoil(value, site):
        del site
        return value.sign() * logit

    spoilt = vi.Fn("unembed.hook_out", spoil)
    with pytest.raises(error, match=why):
        ex.integrated_gradients(tiny.lmm(), IMAGE, QUESTION, "red", graph=spoilt)


def test_what_cannot_be_attributed_is_refused():
    for more, words in (
        ({"steps": 0}, "at least one"),
        ({"steps": "many"}, "'auto'"),
        ({"steps": 4, "gap": 0.1}, "leave them out"),
        ({"steps": 4, "most": 64}, "leave them out"),
        ({"gap": 0.0}, "above 0"),
        ({"most": 3}, "at least 9 passes"),
        ({"baseline": "black"}, "mean"),
    ):
        with pytest.raises(vi.InputError, match=words):
            ex.integrated_gradients(tiny.lmm(), IMAGE, QUESTION, **more)
    with pytest.raises(vi.InputError, match="not one token"):
        ex.gradient_attention(tiny.lmm(), IMAGE, QUESTION, "red disc")
    with pytest.raises(vi.VsinkError):
        ex.gradient_attention(tiny.lmm(), None, "count")
