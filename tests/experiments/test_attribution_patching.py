"""Attribution patching against autograd over plain transformers, and against the exact patches."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.experiments.test_patching import CLEAN, CORRUPTED
from vsink_interp import experiments as ex

WORDS = ("red", "blue")


def by_autograd(layer, of):
    """Gradient times difference where a module of a plain layer is entered: token x width."""
    model = tiny.lmm(attention="eager").hf_model
    module = of(model.model.language_model.layers[layer])
    seen = []

    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    inputs = [tiny.lmm().encode(*one).inputs for one in (CLEAN, CORRUPTED)]
    model(**inputs[0])
    logits = model(**inputs[1]).logits[0, -1]
    hook.remove()
    one, other = tiny.tokenizer().convert_tokens_to_ids(list(WORDS))
    (grad,) = torch.autograd.grad(logits[one] - logits[other], seen[1])
    return (grad * (seen[0] - seen[1])).detach()[0].double().numpy()


def test_it_is_gradient_times_difference():
    found = ex.attribution_patching(
        tiny.lmm(), CLEAN, CORRUPTED, *WORDS, by="head", layers=(1, 3), check=0
    )
    for i, layer in enumerate((1, 3)):
        product = by_autograd(layer, lambda block: block.self_attn.o_proj)
        by_head = product.reshape(len(product), tiny.HEADS, -1).sum((0, 2))
        np.testing.assert_allclose(found.estimate[i] - found.corrupted, by_head, atol=1e-4)
    mlp = {"hook": "mlp.hook_post", "layers": 2, "check": 0}
    product = by_autograd(2, lambda block: block.mlp.down_proj).sum(-1)
    place = ex.attribution_patching(tiny.lmm(), CLEAN, CORRUPTED, *WORDS, **mlp)
    np.testing.assert_allclose(place.estimate[0] - place.corrupted, product, atol=1e-4)
    parts = ex.attribution_patching(tiny.lmm(), CLEAN, CORRUPTED, *WORDS, by="segment", **mlp)
    masks = [tiny.encode().layout.mask(name)[0].numpy() for name in parts.places]
    wanted = [product[mask].sum() for mask in masks]
    np.testing.assert_allclose(parts.estimate[0] - parts.corrupted, wanted, atol=1e-4)
    assert np.abs(product).max() > 1e-3


@pytest.mark.parametrize("hook", ["attn.hook_pattern", "attn.hook_q", "attn.hook_k", "attn.hook_v"])
def test_every_hook_with_heads_is_estimated(hook):
    how = {"by": "head", "hook": hook, "layers": (1, 3)}
    found = ex.attribution_patching(tiny.lmm(), CLEAN, CORRUPTED, *WORDS, check=None, **how)
    exact = ex.patching(tiny.lmm(), CLEAN, CORRUPTED, *WORDS, **how)
    np.testing.assert_allclose(found.exact, exact.difference, atol=1e-5)
    assert np.abs(found.estimate - found.corrupted).min() > 0
    assert found.estimate.shape == exact.difference.shape


def test_the_check_is_of_patches_that_were_run_and_close_to_linear_it_is_near_one():
    """An image hardly changed: the first order is all that there is."""
    image, question = CORRUPTED
    near = vi.model.images.as_image(np.asarray(image, dtype=np.uint8) // 32 * 32)
    found = ex.attribution_patching(
        tiny.lmm(), (near, question), CORRUPTED, *WORDS, hook="hook_mlp_out", check=12, seed=1
    )
    exact = ex.patching(
        tiny.lmm(), (near, question), CORRUPTED, *WORDS, by="position", hook="hook_mlp_out",
        layers=(0, 3),
    )  # fmt: skip
    run = ~np.isnan(found.exact)
    assert run.sum() == 12
    for i, layer in ((0, 0), (1, 3)):
        both = run[layer]
        np.testing.assert_allclose(found.exact[layer][both], exact.difference[i][both], atol=1e-5)
    pairs = np.stack([found.estimate[run], found.exact[run]])
    assert found.correlation == pytest.approx(np.corrcoef(pairs)[0, 1])
    assert found.correlation > 0.8
    assert "12 of them run" in str(found)
    figure = found.plot()
    assert len(figure.axes) == 3
    assert f"r {found.correlation:.2f}" in figure.axes[1].get_title(loc="left")
    none = ex.attribution_patching(tiny.lmm(), CLEAN, CORRUPTED, *WORDS, layers=0, check=0)
    assert np.isnan(none.correlation)
    assert "nothing says" in none.plot().axes[1].get_title(loc="left")


def test_what_has_no_estimate_is_refused():
    with pytest.raises(vi.NotationError, match="minus infinity"):
        ex.attribution_patching(
            tiny.lmm(), CLEAN, CORRUPTED, *WORDS, by="head", hook="attn.hook_attn_scores"
        )
    with pytest.raises(vi.InputError, match="check=-1"):
        ex.attribution_patching(tiny.lmm(), CLEAN, CORRUPTED, *WORDS, check=-1)
    with pytest.raises(vi.LayoutError, match="matches tokens by segment"):
        ex.attribution_patching(tiny.lmm(), CLEAN, (tiny.image(9), "count"), *WORDS)
