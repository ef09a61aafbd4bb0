"""What a researcher types on the first day, one short test a task; values are tested elsewhere."""

from dataclasses import dataclass
from typing import final

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import TextIteratorStreamer

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
    with pytest.raises(vi.InputError) as told:
        lmm.run(images, PROMPT)
    for spelling in (
        "run(images, ['describe the image'] * 8)", f"run(images, '{'<image> ' * 8}{PROMPT}')"
    ):  # fmt: skip
        assert spelling in str(told.value)


def test_06_a_pattern_in_circuitsvis(lmm, image):
    pattern = probes.Pattern("all", layers=3)
    run = lmm.run(image, PROMPT, pattern)
    assert "<" in plot.attention_patterns(run, layer=3).html
    circuitsvis = pytest.importorskip("circuitsvis.attention")
    shown = circuitsvis.attention_patterns(
        tokens=list(run.words[0]), attention=run[pattern].at(layer=3, batch=0).values
    )
    assert "AttentionPatterns" in shown.local_src


def test_07_the_logit_lens_of_image_tokens(lmm, image):
    lens = ex.image_lens(lmm, image, PROMPT)
    assert lens.count(5)
    assert lens.plot().axes


def test_08_one_heads_z_from_another_image(lmm, image, other):
    source = lmm.run(other, PROMPT, probes.Activation("attn.hook_z"))
    patch = vi.Patch("attn.hook_z", source, layers=3, heads=[0])
    z = probes.Activation("attn.hook_z", layers=3)
    run = lmm.run(image, PROMPT, patch | z)
    mine, theirs = run[z].values[0, 0], source[probes.Activation].at(layer=3).values[0]
    assert torch.equal(mine[:, 0], theirs[:, 0])
    assert torch.equal(mine[:, 1:], lmm.run(image, PROMPT, z)[z].values[0, 0, :, 1:])
    assert not torch.equal(run.logits, lmm.run(image, PROMPT).logits)


@pytest.mark.parametrize("by", ["segment", "head", "position"])
def test_09_patching_heat_maps(lmm, by):
    """Layer by segment, by head and by position."""
    asked = "what color is the circle?"
    clean, corrupted = (vi.toy.scene(0).image, asked), (vi.toy.scene(4).image, asked)
    rows = {"rows": "query"} if by == "position" else {}
    found = ex.patching(lmm, clean, corrupted, by=by, layers=(0, 4), **rows)
    n_query = int(lmm.encode(*clean).layout.mask("query").sum())
    wide = {"segment": 4, "head": lmm.n_heads, "position": n_query}[by]
    assert found.recovered.shape == (2, wide)
    assert np.abs(found.recovered).max() > 0.1
    assert found.plot().axes[0].get_ylabel() == ("" if by == "segment" else by)


def test_10_a_knockout_from_each_layer_on_and_in_a_window(lmm):
    pytest.importorskip("pandas")
    cases, flows = ex.Cases.scenes(3), ("image -> query generated",)
    for window in (None, 3):
        sweep = ex.knockout_sweep(lmm, cases, flows=flows, layers=(0, 3, 5), window=window)
        low, high = sweep.interval[0].T
        change = sweep.mean[0] - sweep.baseline.mean()
        assert (low <= change + 1e-9).all()
        assert (change <= high + 1e-9).all()
        assert {"low_95", "high_95"} < {*sweep.to_pandas().columns}
        assert any("95 %" in text.get_text() for text in sweep.plot().axes[0].texts)


def test_11_query_only_answers_and_var(lmm, image):
    for graph in (vi.Knockout("image -> generated"), vi.VAR(p=0.5, rho=0.7, layers="2:5")):
        assert lmm.generate(image, PROMPT, graph, max_new_tokens=4).text


def test_12_captions_of_a_folder_as_a_table(lmm, tmp_path):
    """Before and after VAR, of 20 files and the prompts of a CSV."""
    pandas = pytest.importorskip("pandas")
    for seed in range(20):
        vi.toy.scene(seed).image.save(tmp_path / f"{seed:02}.png")
    asked = [{"file": f"{i:02}.png", "prompt": PROMPT} for i in range(20)]
    pandas.DataFrame(asked).to_csv(tmp_path / "prompts.csv", index=False)

    table = pandas.read_csv(tmp_path / "prompts.csv")
    images, prompts = [tmp_path / name for name in table.file], list(table.prompt)
    table["before"] = lmm.generate(images, prompts, batch_size=8, max_new_tokens=5).text
    table["after"] = lmm.generate(
        images, prompts, vi.VAR(rho=0.5), batch_size=8, max_new_tokens=5
    ).text
    table.to_csv(tmp_path / "captions.csv")
    assert table.shape == (20, 4)
    assert table.before[7] == lmm.generate(images[7], PROMPT, max_new_tokens=5).text


def test_13_steering_with_a_difference_of_means(lmm):
    """Of two sets of images; the direction is that of the means of all their rows, by hand."""
    stream = probes.Activation("hook_resid_post", layers=4)
    sets = [[vi.toy.scene(seed).image for seed in seeds] for seeds in ((0, 1, 6), (2, 5))]
    means = [
        lmm.run(images, [PROMPT] * len(images), stream)[stream].at(layer=4).values[:, -1].mean(0)
        for images in sets
    ]
    alone = [lmm.run(one, PROMPT, stream)[stream].values[0, 0, -1] for one in sets[0]]
    torch.testing.assert_close(means[0], sum(alone) / 3, atol=1e-4, rtol=1e-4)
    steer = vi.Steer(means[0] - means[1], layers=4, scale=2.0)
    assert len(repr(steer)) < 200
    image = sets[1][0]
    steered = lmm.run(image, PROMPT, steer | stream)[stream].values[0, 0, -1]
    plain = lmm.run(image, PROMPT, stream)[stream].values[0, 0, -1]
    torch.testing.assert_close(steered - plain, 2 * (means[0] - means[1]), atol=1e-4, rtol=1e-4)
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
    """What an MLP writes, halved at some rows: an edit of one's own, in fifteen lines."""

    layers: object = ":"
    rows: str = "query generated"
    hook = "hook_mlp_out"

    def check(self, layout, *, generates):
        layout.check_group(self.rows, generates=generates)

    def apply(self, value, site):
        return torch.where(site.queries(self.rows)[..., None], value * 0.5, value)


def test_15_an_edit_of_ones_own(lmm, image):
    """A value: it compares, goes into JSON and back, is refused where it cannot act."""
    edit = Halve(layers="3:")
    assert edit == Halve(layers="3:") == vi.EditGraph.from_json(edit.to_json())[0]
    assert repr(edit) == "Halve(layers='3:', rows='query generated')"
    query = lmm.encode(image, PROMPT).layout.mask("query")[0]

    def halved(value, hook):
        del hook
        value[:, query] *= 0.5

    got = lmm.run(image, PROMPT, edit).logits
    assert torch.equal(
        got, lmm.run(image, PROMPT, vi.Fn("hook_mlp_out", halved, layers="3:")).logits
    )
    assert not torch.equal(got, lmm.run(image, PROMPT).logits)
    with pytest.raises(vi.LayoutError, match="no history token"):
        lmm.run(image, PROMPT, Halve(rows="history"))


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


def test_19_a_fine_tuned_llava_in_a_local_folder(image, tmp_path):
    tuned = vi.LMM.toy()
    with torch.no_grad():
        tuned.hf_model.get_output_embeddings().weight[:, ::2] *= 1.5
    tuned.hf_model.save_pretrained(tmp_path)
    tuned.processor.save_pretrained(tmp_path)
    lmm = vi.LMM.from_pretrained(tmp_path)
    run = lmm.run(image, PROMPT, probes.SegmentMass())
    assert torch.equal(run.logits, tuned.run(image, PROMPT).logits)
    assert not torch.equal(run.logits, vi.LMM.toy().run(image, PROMPT).logits)


def test_20_two_turns_two_images_and_a_video(lmm, image, other):
    talk = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how many?"}]},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": PROMPT},
    ]
    encoding = lmm.encode(image, talk)
    assert "history[" in str(encoding.layout)
    assert int(encoding.layout.mask("turn[1]").sum()) == 1
    assert lmm.generate(encoding, graph=vi.Knockout("turn[1] -> query"), max_new_tokens=3).text
    assert str(lmm.encode([image, other], PROMPT).layout).count("image[8x8=64]") == 2
    qwen = vi.LMM.tiny("Qwen2-VL")
    clip = vi.Video([image, other, image, other], size=(56**2, 56**2))
    run = qwen.generate(clip, "count", vi.Knockout("frame[3] -> query"), max_new_tokens=2)
    assert str(run.layout).count("image[2x2=4]") == 2
    with pytest.raises(vi.CapabilityError, match="give sampled frames as images"):
        lmm.encode(clip, PROMPT)


def test_21_localisation_with_masks_of_ones_own(lmm, scene):
    mask = np.zeros((64, 64), dtype=bool)
    mask[:32, :32] = True
    word = lmm.generate(scene.image, PROMPT, max_new_tokens=8).text.split()[1]
    found = ex.localisation(lmm, [ex.ObjectMasks(scene.image, PROMPT, word, mask)])
    assert found.rate.shape[1] == lmm.n_layers


def test_22_sampling_streaming_and_ragged_batches(lmm, image, other):
    images, prompts = [image, other], [PROMPT, "how many objects are there?"]
    how = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 6}
    sampled = [lmm.generate(images, prompts, seed=1, **how).text for _ in range(2)]
    assert sampled[0] == sampled[1]
    run = lmm.generate(images, prompts, vi.VAR(), max_new_tokens=6)
    alone = [lmm.generate(one, asked, vi.VAR(), max_new_tokens=6).text
             for one, asked in zip(images, prompts, strict=True)]  # fmt: skip
    assert run.text == alone
    streamer = TextIteratorStreamer(lmm.tokenizer, skip_prompt=True, skip_special_tokens=True)
    run = lmm.generate(image, PROMPT, vi.VAR(), max_new_tokens=6, streamer=streamer)
    assert "".join(streamer).strip() == run.text


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ({"device": "cpu", "dtype": "float32"}, "float32"),
        ({"device": "cpu", "dtype": "bfloat16"}, "bfloat16"),
        ({"device_map": "cpu", "dtype": torch.float16}, "float16"),
        ({"device_map": {"": "cpu"}, "dtype": "bf16"}, "bfloat16"),
    ],
)
def test_23_a_device_and_a_precision_of_ones_own(image, how, dtype):
    lmm = vi.LMM.from_pretrained(str(vi.toy.weights_dir), **how)
    assert str(lmm.dtype) == f"torch.{dtype}"
    assert str(lmm.device) == "cpu"
    run = lmm.generate(image, PROMPT, vi.VAR() | probes.SegmentMass(), max_new_tokens=3)
    assert run.text
    if "device_map" not in how:
        assert lmm.to(torch.float32).dtype is torch.float32


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
