"""What the viewer is given: the values of the run, to the size of a step."""

import base64
import zlib
from dataclasses import replace

import numpy as np
import pytest

import vsink_interp as vi
from vsink_interp import viewer
from vsink_interp.viewer.payload import packed
from vsink_interp.viewer.words import shown_words


def unpacked(stack):
    steps = np.frombuffer(zlib.decompress(base64.b64decode(stack["bytes"])), np.uint8)
    return (steps / 255.0).reshape(stack["shape"]) ** 2 * stack["top"]


def test_bytes_keep_values_to_a_step_of_their_square_root():
    values = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32) ** 4
    error = np.abs(np.sqrt(unpacked(packed(values))) - np.sqrt(values))
    assert error.max() <= 0.51 / 255 * np.sqrt(values.max())
    assert unpacked(packed(np.zeros((2, 2)))).max() == 0
    assert unpacked(packed(np.array([np.nan, 1.0])))[0] == 0


def test_maps_and_phi_are_those_of_the_run(lmm):
    image = vi.toy.scene(0).image
    contribution = vi.probes.Contribution()
    run = lmm.generate(image, "describe the image", viewer.view_probes(":") | contribution)
    data = vi.view(run, image).data
    arm = data["arms"][0]
    maps = run[vi.probes.AttentionMaps()].values[:, 0].numpy()
    np.testing.assert_allclose(unpacked(arm["attention"][0]), maps, atol=0.005 * maps.max())
    phi = run.of(vi.probes.SinkValue(), "image[0]").values[:, 0].numpy()
    np.testing.assert_allclose(unpacked(arm["phi"][0]), phi, atol=0.005 * phi.max())
    image_keys = run.layout.mask("image")[0, :-1]  # no row follows the last token
    pattern = run[vi.probes.Pattern(layers=":")].values[2, 0][..., image_keys].numpy()
    np.testing.assert_allclose(unpacked(arm["heads"]["2"][0]), pattern, atol=0.005)
    assert unpacked(arm["mass"]).shape == (8, 4, len(data["rows"]))
    answer = [row["text"] for row in data["rows"] if row["kind"] == "answer"]
    assert " ".join(answer).startswith(run.text.split(",")[0])
    assert data["probes"].keys() == {"attention", "phi", "contribution"}


def test_boxes_are_the_patches_of_the_image(lmm):
    image = vi.toy.scene(0).image.resize((128, 128))
    run = lmm.generate(image, "describe the image", vi.probes.AttentionMaps())
    panel = vi.view(run, image).data["panels"][0]
    assert panel["boxes"][9] == [1 / 8, 1 / 8, 2 / 8, 2 / 8]
    assert vi.view(run).data["panels"][0]["src"] is None


@pytest.mark.parametrize("family", ["LLaVA-NeXT", "Qwen2-VL", "Idefics3"])
def test_tiles_and_several_images(family):
    lmm = vi.LMM.tiny(family)
    images = [vi.toy.scene(i).image.resize((80, 60)) for i in range(2)]
    encoding = lmm.encode([images], ["what is there ?"])
    run = lmm.generate(encoding, graph=vi.probes.AttentionMaps(), max_new_tokens=3)
    data = vi.view(run, images).data
    spans = run.layout.images[0]
    assert len(data["panels"]) == sum(len(span.parts) for span in spans)
    shapes = [stack["shape"][-1] for stack in data["arms"][0]["attention"]]
    assert shapes == [len(panel["boxes"]) for panel in data["panels"]]


def test_what_cannot_be_shown_says_so(lmm):
    image = vi.toy.scene(0).image
    with pytest.raises(vi.ResultError, match="AttentionMaps"):
        vi.view(lmm.generate(image, "describe the image", max_new_tokens=2))
    maps = vi.probes.AttentionMaps()
    two = lmm.generate([image] * 2, ["describe the image"] * 2, maps, max_new_tokens=2)
    with pytest.raises(vi.ResultError, match="one prompt"):
        vi.view(two)
    one = lmm.generate(image, "describe the image", maps, max_new_tokens=4)
    other = lmm.generate(image, "is there a red circle?", maps, max_new_tokens=4)
    with pytest.raises(vi.ResultError, match="other tokens"):
        vi.view(one, after=other)
    with pytest.raises(vi.InputError, match="names are of two runs"):
        vi.view(one, names=("a", "b"))
    with pytest.raises(vi.InputError, match="1 images; got 2"):
        vi.view(one, [image, image])


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (vi.probes.SegmentMass(), "records what it shows by itself"),
        (vi.VAR() | vi.probes.AttentionMaps("query"), "records what it shows by itself"),
        (vi.edits.recipes.vcd(), "changes which word is chosen"),
        (vi.DropKeys("image"), "generate"),
    ],
)
def test_a_graph_of_which_nothing_would_be_seen_is_refused(lmm, graph, said):
    with pytest.raises(vi.VsinkError, match=said):
        viewer.look(lmm, vi.toy.scene(0).image, "describe the image", graph, max_new_tokens=2)


def test_records_are_laid_beside_the_maps_by_layer_and_row(lmm):
    """Probes of more layers and rows than the maps are cut to them; of fewer, refused."""
    encoding = lmm.encode(vi.toy.scene(0).image, "describe the image")
    maps = vi.probes.AttentionMaps("generated", layers="2:5")
    more = (
        vi.probes.SinkValue() | vi.probes.Contribution() | vi.probes.LogitLens(top_k=1)
        | vi.probes.SegmentMass() | vi.probes.Pattern(layers="3") | vi.probes.Pattern(layers="6")
    )  # fmt: skip
    run = lmm.generate(encoding, graph=maps | more, max_new_tokens=4)
    after = lmm.run(encoding.with_answer(run), graph=vi.VAR(rho=0.5) | maps | more)
    data = vi.view(run, after=after).data
    rows = run[maps].labels("query")
    for arm, one in zip(data["arms"], (run, after), strict=True):
        phi = one.of(vi.probes.SinkValue(), "image[0]").values[2:5, 0].numpy()
        np.testing.assert_allclose(unpacked(arm["phi"][0]), phi, atol=0.005 * phi.max())
        norms = one.of(vi.probes.Contribution(), "image[0]").taken("query", rows).values[2:5, 0]
        np.testing.assert_allclose(
            unpacked(arm["contribution"][0]), norms, atol=0.005 * float(norms.max())
        )
        shares = one[vi.probes.SegmentMass].at(segment="image").taken("query", rows)
        np.testing.assert_allclose(unpacked(arm["mass"]), shares.values[2:5, 0], atol=0.005)
        assert arm["heads"].keys() == {"3", "6"}
        assert {stack["shape"][-2] for held in arm["heads"].values() for stack in held} == {3}
    words = run[vi.probes.LogitLens(top_k=1), "word"].words[2:5, 0, :, 0].tolist()
    (panel,) = data["lens"]
    assert [[panel["vocabulary"][word] for word in line] for line in panel["words"]] == words
    few = lmm.generate(
        encoding, graph=vi.probes.AttentionMaps() | vi.probes.SinkValue(layers="2:5"),
        max_new_tokens=4,
    )  # fmt: skip
    with pytest.raises(vi.ResultError, match="layer"):
        vi.view(few)
    with pytest.raises(vi.ResultError, match=r"other probes than the first \(AttentionMaps\)"):
        vi.view(few, after=after)


def test_a_model_that_mixes_kinds_of_attention_is_shown_where_it_has_patterns():
    lmm = vi.LMM.tiny("Qwen3.5")
    image = vi.toy.scene(0).image.resize((80, 60))
    data = viewer.look(lmm, image, "what is there ?", lens=True, max_new_tokens=2).data
    assert tuple(data["layers"]) == lmm.layers_with("attn.hook_pattern") == (1, 3)
    assert len(data["lens"][0]["words"]) == 2
    assert data["arms"][0]["mass"]["shape"][0] == 2


def test_in_a_notebook(lmm):
    image = vi.toy.scene(0).image
    found = viewer.look(lmm, image, "describe the image", max_new_tokens=4)
    assert found._repr_html_().startswith("<iframe sandbox=")
    assert "8 layers" in repr(found)
    widget = found.widget()
    assert "export default" in str(widget._esm)
    assert widget.payload.startswith("{")


def test_the_command(tmp_path, opened):
    from typer.testing import CliRunner

    from vsink_interp.cli.main import app

    vi.toy.scene(1).image.save(tmp_path / "a.png")
    out = tmp_path / "F.html"
    words = ["--image", str(tmp_path / "a.png"), "--prompt", "describe the image", "--graph", "var"]
    found = CliRunner().invoke(app, ["view", *words, "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert opened == ["toy"]
    assert "mount(document" in out.read_text()


def test_a_word_of_several_tokens_is_one_word(lmm):
    """Its map is the mean over the rows that predict its tokens; punctuation stands alone."""
    image = vi.toy.scene(0).image
    run = lmm.generate(image, "describe the image", viewer.view_probes("3"))
    pair = [word.rstrip(",") for word in run.text.split(" ")[1:3]]
    first = "".join(pair)  # what two tokens write, as if it were one word
    told = replace(run, text=run.text.replace(" ".join(pair), first, 1))
    data, plain = vi.view(told, image).data, vi.view(run, image).data
    words = [row["text"] for row in data["rows"]]
    place = words.index(first)
    assert [row["text"] for row in plain["rows"]][place : place + 2] == pair
    assert len(words) == len(plain["rows"]) - 1
    maps = run[vi.probes.AttentionMaps()].values[:, 0].numpy()
    want = maps[:, place : place + 2].mean(1)
    got = unpacked(data["arms"][0]["attention"][0])
    np.testing.assert_allclose(got[:, place], want, atol=0.005 * maps.max())
    np.testing.assert_allclose(got[:, place + 1], maps[:, place + 2], atol=0.005 * maps.max())
    assert unpacked(data["arms"][0]["mass"]).shape[-1] == len(words)
    assert unpacked(data["arms"][0]["heads"]["3"][0]).shape[1] == len(words)


def test_tokens_of_the_prompt_are_joined_where_spaces_say_so(lmm):
    run = lmm.run(vi.toy.scene(0).image, "describe the image", vi.probes.AttentionMaps())
    words = (*run.words[0][:-5], " un", "believ", "able", " image", ":")
    told = replace(run, words=(words,))
    rows = range(len(words) - 5, len(words))
    assert [word.text for word in shown_words(told, rows)][:2] == ["unbelievable", "image"]
    assert [word.rows for word in shown_words(told, rows)][:2] == [(0, 1, 2), (3,)]
    plain = replace(run, words=((*run.words[0][:-5], "un", "believ", "able", "image", ":"),))
    assert len(shown_words(plain, rows)) == 5, "where no space is kept, tokens stay apart"


def test_lens_words_are_those_of_the_run(lmm):
    lens = vi.probes.LogitLens(top_k=1)
    run = lmm.run(vi.toy.scene(3).image, "describe the image", vi.probes.AttentionMaps() | lens)
    (panel,) = vi.view(run).data["lens"]
    got = [[panel["vocabulary"][word] for word in line] for line in panel["words"]]
    assert got == run[lens, "word"].words[:, 0, :, 0].tolist()
    assert len(set(got[4])) > 2
    assert "lens" in vi.view(run).data["probes"]
