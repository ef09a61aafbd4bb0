"""What a researcher types on the first day, one short test a task; values are tested elsewhere."""

from dataclasses import dataclass
from typing import final

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import vsink_interp as vi
from vsink_interp import experiments as ex, plot, probes

PROMPT = "describe the image"


@pytest.fixture(scope="module")
def image(scene):
    return scene.image


@pytest.fixture(scope="module")
def other():
    return vi.toy.scene(3).image


def test_01_the_token_layout(lmm, image):
    assert "image[8x8=64]" in str(lmm.encode(image, PROMPT).layout)


def test_02_where_each_word_of_the_answer_looks(lmm, image):
    maps = ex.word_maps(lmm, image, PROMPT, graph=vi.EditGraph(), max_new_tokens=6)
    assert maps.before.shape == (len(maps.words), 64)
    assert maps.plot().axes


def test_03_the_top_sinks_with_their_boxes(lmm, other):
    found = lmm.run(other, PROMPT, probes.SinkValue()).sinks(layer=5).topk(10)
    assert 0 < len(found) <= 10
    assert all(one.box and one.phi >= lmm.sinks.tau for one in found)


def test_04_sink_dimensions_and_a_histogram(lmm):
    report = vi.find_sink_dims(lmm)
    assert report.dims
    assert ex.sink_values(lmm, ex.Cases.scenes(2)).plot().axes


def test_05_the_stream_of_eight_images_under_one_prompt(lmm):
    images = [vi.toy.scene(seed).image for seed in range(8)]
    run = lmm.run(images, [PROMPT] * 8, probes.Activation("hook_resid_post"))
    assert run[probes.Activation].values.shape[:2] == (lmm.n_layers, 8)


def test_06_a_pattern_in_circuitsvis(lmm, image):
    view = plot.token_strengths(ex.token_strengths(lmm, image, PROMPT, max_new_tokens=4))
    assert "<" in view.html


def test_07_the_logit_lens_of_image_tokens(lmm, image):
    lens = ex.image_lens(lmm, image, PROMPT)
    assert lens.count(5)
    assert lens.plot().axes


def test_08_one_heads_z_from_another_image(lmm, image, other):
    source = lmm.run(other, PROMPT, probes.Activation("attn.hook_z"))
    patch = vi.Patch("attn.hook_z", source, layers=3, heads=[0])
    assert not torch.equal(lmm.run(image, PROMPT, patch).logits, lmm.run(image, PROMPT).logits)


def test_09_a_patching_heat_map(lmm):
    asked = "what color is the circle?"
    clean, corrupted = (vi.toy.scene(0).image, asked), (vi.toy.scene(4).image, asked)
    found = ex.patching(lmm, clean, corrupted, layers=(0, 4))
    assert found.recovered.shape == (2, len(found.segments))
    assert found.plot().axes


def test_10_a_knockout_from_each_layer_on_and_in_a_window(lmm, image):
    sweep = ex.knockout_sweep(
        lmm, ex.Cases.scenes(2), flows=("image -> query generated",), layers=(0, 6)
    )
    assert sweep.mean.shape == (1, 2)
    assert lmm.generate(image, PROMPT, vi.Knockout("image -> query", "2:4"), max_new_tokens=4).text


def test_11_query_only_answers_and_var(lmm, image):
    for graph in (vi.Knockout("image -> generated"), vi.VAR(p=0.5, rho=0.7, layers="2:5")):
        assert lmm.generate(image, PROMPT, graph, max_new_tokens=4).text


def test_12_captions_of_a_folder_as_a_table(lmm, tmp_path):
    pandas = pytest.importorskip("pandas")
    for seed in range(3):
        vi.toy.scene(seed).image.save(tmp_path / f"{seed}.png")
    paths = sorted(tmp_path.glob("*.png"))
    table = pandas.DataFrame({"file": [path.name for path in paths]})
    for name, graph in {"before": None, "after": vi.VAR(rho=0.5)}.items():
        table[name] = lmm.generate(paths, [PROMPT] * 3, graph, max_new_tokens=6).text
    assert table.shape == (3, 3)


def test_13_steering_with_a_difference_of_means(lmm, image, other):
    stream = probes.Activation("hook_resid_post", layers=4)
    means = [
        lmm.run([one], [PROMPT], stream)[stream].at(layer=4).values[:, -1].mean(0)
        for one in (image, other)
    ]
    steer = vi.Steer(means[0] - means[1], layers=4)
    assert len(repr(steer)) < 200
    assert lmm.generate(image, PROMPT, steer, max_new_tokens=4).text is not None


@vi.probe("hook_resid_post")
def length(resid, site) -> Float[Tensor, "batch query"]:
    del site
    return resid.norm(dim=-1)


def test_14_a_probe_of_ones_own(lmm, image):
    assert lmm.run(image, PROMPT, length)[length].axes == ("layer", "batch", "query")


@final
@dataclass(frozen=True)
class Halve(vi.Edit):
    """What an MLP writes, halved."""

    hook: str = "hook_mlp_out"
    layers: str = ":"

    def apply(self, value, site):
        del site
        return value * 0.5


def test_15_an_edit_of_ones_own(lmm, image):
    edit = Halve(layers="3:")
    assert edit == Halve(layers="3:")
    halved = vi.Fn("hook_mlp_out", lambda value, hook: value * 0.5, layers="3:")  # noqa: ARG005
    assert torch.equal(lmm.run(image, PROMPT, edit).logits, lmm.run(image, PROMPT, halved).logits)
    assert Halve.__name__ in vi.EditGraph(edit).to_json()


@pytest.mark.parametrize("hook", ["hook_resid_pre", "attn.hook_pattern"])
def test_16_the_gradient_of_a_logit(lmm, image, hook):
    gradient = probes.Gradient(hook, of="logit of 'blue' at last", layers=3)
    found = lmm.run(image, PROMPT, gradient)[gradient].values
    assert float(found.abs().max()) > 0


def test_17_a_graph_and_a_run_come_back(lmm, image, tmp_path):
    graph = vi.Knockout("image -> query") | probes.SegmentMass()
    graph.save(tmp_path / "graph.json")
    run = lmm.run(image, PROMPT, vi.EditGraph.load(tmp_path / "graph.json"))
    run.save(tmp_path / "run")
    again = vi.Run.load(tmp_path / "run")
    assert torch.equal(again[probes.SegmentMass].values, run[probes.SegmentMass].values)


def test_18_a_transformer_lens_hook_by_its_full_name(lmm, image):
    logits = lmm.run_with_hooks(
        image,
        PROMPT,
        fwd_hooks=[("blocks.3.hook_mlp_out", lambda value, hook: value * 0)],  # noqa: ARG005
    )
    silent = lmm.run(image, PROMPT, vi.Ablate("hook_mlp_out", 3)).logits
    torch.testing.assert_close(logits, silent)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_19_and_23_a_local_folder_in_a_precision_of_ones_own(image, dtype):
    lmm = vi.LMM.from_pretrained(str(vi.toy.weights_dir), dtype=dtype, device="cpu")
    assert str(lmm.dtype) == f"torch.{dtype}"
    assert lmm.generate(image, PROMPT, max_new_tokens=3).text


def test_20_two_turns_and_two_images(lmm, image, other):
    talk = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how many?"}]},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": PROMPT},
    ]
    assert "history[" in str(lmm.encode(image, talk).layout)
    assert str(lmm.encode([image, other], PROMPT).layout).count("image[8x8=64]") == 2


def test_21_localisation_with_masks_of_ones_own(lmm, scene):
    mask = np.zeros((64, 64), dtype=bool)
    mask[:32, :32] = True
    word = lmm.generate(scene.image, PROMPT, max_new_tokens=8).text.split()[1]
    found = ex.localisation(lmm, [ex.ObjectMasks(scene.image, PROMPT, word, mask)])
    assert found.rate.shape[1] == lmm.n_layers


def test_22_sampling_and_ragged_batches(lmm, image, other):
    run = lmm.generate(
        [image, other], [PROMPT, "how many objects are there?"], do_sample=True, seed=1,
        max_new_tokens=6,
    )  # fmt: skip
    assert len(run.text) == 2


def test_24_an_experiment_goes_on_and_its_figure_is_a_pdf(lmm, tmp_path):
    options = {"flows": ("image -> query",), "layers": (0,), "log": str(tmp_path / "sweep.jsonl")}
    first = ex.knockout_sweep(lmm, ex.Cases.scenes(1), **options)
    again = ex.knockout_sweep(lmm, ex.Cases.scenes(1), **options)
    np.testing.assert_array_equal(first.f1, again.f1)
    again.plot().savefig(tmp_path / "sweep.pdf")
    assert (tmp_path / "sweep.pdf").read_bytes().startswith(b"%PDF")


def test_25_the_last_line_of_a_cell(lmm, image, scene):
    run = lmm.run(image, PROMPT, probes.SegmentMass())
    for shown in (lmm, scene, lmm.encode(image, PROMPT), run, run[probes.SegmentMass]):
        assert "\n" not in repr(shown)
        assert "tensor(" not in repr(shown)
        assert "<" in shown._repr_html_()
