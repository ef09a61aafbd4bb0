"""Register neurons, against hooks of torch on the plain tower, and what moving them does."""

from copy import deepcopy

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from vsink_interp import experiments as ex
from vsink_interp.edits import recipes

PLANTED = (7, 30)


@pytest.fixture(scope="module")
def model():
    """A tower in whose first layer two neurons make patches large, in one direction each."""
    hf_model = deepcopy(tiny.hf_model())
    mlp = hf_model.model.vision_tower.encoder.layers[0].mlp
    with torch.no_grad():
        for number in PLANTED:
            mlp.fc1.bias[number] = -2.5  # active at few patches
            mlp.fc1.weight[number] *= 6
            mlp.fc2.weight[:, number] *= 40
    return vi.LMM(hf_model, tiny.processor(), check=False)


IMAGES = [tiny.image(seed) for seed in (3, 5)]


def plainly(model, images):
    """Algorithm 1 by hand: mean over images of the mean activation at outliers, layer 0."""
    found, seen = [], {}
    layers = model.hf_model.model.vision_tower.encoder.layers

    def keep_neurons(_, args):
        seen["neurons"] = args[0]

    def keep_output(_, args, out):
        del args
        seen["out"] = out[0] if isinstance(out, tuple) else out

    for image in images:
        handles = [
            layers[0].mlp.fc2.register_forward_pre_hook(keep_neurons),
            layers[1].register_forward_hook(keep_output),
        ]
        with torch.no_grad():
            model.hf_model(**model.encode(image, "count").inputs)
        for handle in handles:
            handle.remove()
        out = seen["out"]
        norms = out.reshape(-1, out.shape[-1])[1:].norm(dim=-1).numpy()
        found.append((seen["neurons"][0, 1:].numpy(), norms))
    return found


def test_neurons_at_outliers_and_a_register_for_them(model):
    plain = plainly(model, IMAGES)
    norm = float(np.mean([norms.max() + np.median(norms) for _, norms in plain])) / 2
    found = ex.register_neurons(model, IMAGES, n=2, layers=0, norm=norm)
    wanted = np.mean([n[norms > norm].mean(0) for n, norms in plain if (norms > norm).any()], 0)
    best = np.argsort(-wanted)[:2]
    assert found.chosen == tuple((0, int(number)) for number in best)
    np.testing.assert_allclose(found.at_outliers, wanted[best], rtol=1e-5)
    assert found.neurons == {0: tuple(sorted(int(number) for number in best))}
    np.testing.assert_allclose(
        found.norm, [norms.max() / np.median(norms) for _, norms in plain], rtol=0.02
    )
    leaving = vi.probes.Activation("vision_encoder.blocks.{layer}.hook_resid_post", 0)
    moved = recipes.registers({0: PLANTED})
    before, after = (
        model.run(IMAGES[0], "count", graph)[leaving].values[0, 0].norm(dim=-1)
        for graph in (vi.EditGraph(leaving), moved | leaving)
    )
    assert after[-1] == after.max()  # the outlier is the register, and no patch is
    assert after[1:-1].max() < before[1:].max() / 2


def test_without_outliers_it_says_so(model):
    for norm, words in ((1e9, "lower norm"), (0.0, "higher norm")):
        with pytest.raises(vi.LayoutError, match=words):
            ex.register_neurons(model, IMAGES[:1], norm=norm)
    for more in ({"n": 0}, {"spare": -1}):
        with pytest.raises(vi.InputError, match="at least one neuron"):
            ex.register_neurons(model, IMAGES[:1], **more)
