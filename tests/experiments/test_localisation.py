"""Does a word look at its object: the number again from plain transformers, planted attention,
the paper's selection, tiles, and a log to go on from."""

import json
import math
from functools import cache

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.families.test_families import (
    PROMPTS,
    attending,
    every_family_with_image_tokens,
    lmm as family_lmm,
)
from tests.logs import signed
from vsink_interp import experiments as ex
from vsink_interp.experiments import ObjectMasks

FIRST, COUNT = 5, 3  # the scenes of the fixture `cases`


@pytest.fixture(scope="module")
def located():
    return ObjectMasks.scenes(COUNT, FIRST)


@pytest.fixture(scope="module")
def found(sunk, located):
    return ex.localisation(sunk, located)


def upsampled(patches, size):
    """torch's bilinear interpolation of a square grid."""
    side = math.isqrt(len(patches))
    grid = torch.as_tensor(patches).reshape(1, 1, side, side)
    return torch.nn.functional.interpolate(grid, size[::-1], mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


def off_mask(mask, laid):
    """Pixels from the largest value of a map to the mask, by trying every pixel of the mask.

    At the border the upsampled map is flat: of the largest pixels the one that lies most in the
    middle of its patch of 8 x 8 counts.
    """
    largest = np.argwhere(laid >= laid.max() * (1 - 1e-12))
    y, x = min(largest, key=lambda at: sum((side % 8 - 3.5) ** 2 for side in at))
    return min(math.dist((x, y), (column, row)) for row, column in np.argwhere(mask))


def test_scenes_are_their_objects(located):
    scenes = [vi.toy.scene(seed) for seed in range(FIRST, FIRST + COUNT)]
    assert len(located) == sum(len(one.objects) for one in scenes) > COUNT
    assert located[0].words == scenes[0].objects[0].name
    assert np.array_equal(located[-1].mask, scenes[-1].masks[-1])


def test_the_whole_number_from_plain_transformers(sunk, located, found, answered, plain):
    """Eager attention, torch's upsampling, brute-force distances, words found by their ids."""
    ids = sunk.processor.tokenizer.get_vocab()
    image = answered.layout.mask("image")[0]
    start = answered.layout.prompt_length
    expected = np.empty((2, sunk.n_layers, len(located)))
    place = 0
    for sample in range(COUNT):
        told = answered.ids[sample].tolist()
        for thing in vi.toy.scene(FIRST + sample).objects:
            at = next(
                i
                for i in range(start, len(told))
                if told[i : i + 2] == [ids[thing.color], ids[thing.shape]]
            )
            maps = plain.pattern[:, sample, :, [at - 1, at]].mean((1, 2))[:, image]
            sinks = plain.phi[:, sample, image] >= sunk.sinks.tau
            for layer, (values, sink) in enumerate(zip(maps, sinks, strict=True)):
                for key, kept in enumerate((values, values.masked_fill(sink, 0.0))):
                    laid = upsampled(kept.double(), (64, 64))
                    expected[key, layer, place] = off_mask(located[place].mask, laid)
            place += 1
    assert place == len(found.located) == len(located)
    np.testing.assert_allclose(found.distance, expected, atol=1e-9)
    for tolerance in (0.0, 3.0, 8.0):
        judged = found.within(tolerance)
        np.testing.assert_allclose(judged.rate, (expected <= tolerance).mean(-1))
        assert (judged.hits[0] != judged.hits[1]).any()
    np.testing.assert_array_equal(found.tolerances, 8.0)
    assert found.rate.max() > 3 * found.chance > 0
    assert found.about == (
        f"{place} objects in 3 images ({place} named of {place}); within 8.0 pixels"
    )


def tiny_located(model, mask):
    """A word that the tiny LLaVA happens to say, on an image that its processor crops."""
    image, prompt = tiny.PROMPTS["one image"]
    run = model.generate(image, prompt, max_new_tokens=8)
    words = [word.strip() for word in run.words[0][run.layout.prompt_length :]]
    at = next(i for i, word in enumerate(words) if i > 1 and words.index(word) == i)
    return ObjectMasks(image, prompt, words[at], mask), at


def test_on_a_random_llava_whose_processor_crops():
    model, mask = tiny.lmm(), np.zeros((56, 70), bool)
    mask[30:40, 10:30] = True
    one, at = tiny_located(model, mask)
    assert at > 1
    found = ex.localisation(model, [one], max_new_tokens=8)
    encoding = model.encode(one.image, one.prompt)
    run = model.generate(encoding, max_new_tokens=8)
    eager = tiny.hf_model(attention="eager")
    with torch.no_grad():
        made = eager(
            input_ids=run.ids,
            attention_mask=torch.ones_like(run.ids),
            pixel_values=encoding.inputs["pixel_values"],
            output_attentions=True,
        )
    row = run.layout.prompt_length - 1 + at
    image = run.ids[0] == 4
    assert image.sum() == 9
    for layer, pattern in enumerate(made.attentions):
        # The processor keeps the middle 56 x 56 of 70 x 56 pixels.
        laid = np.full((56, 70), -np.inf)
        laid[:, 7:63] = upsampled(pattern[0, :, row, image].double().mean(0), (56, 56))
        values = pattern[0, :, row, image].mean(0)
        border = laid == laid.max()  # a patch at the border is flat on its outer side
        expected = {divmod(int(i), 70)[::-1] for i in border.ravel().nonzero()[0]}
        assert tuple(found.peaks[0, layer, 0]) in expected
        assert values.max() > values.min()
    assert len({tuple(peak) for peak in found.peaks[0, :, 0]}) > 1
    seen = np.zeros_like(mask)
    seen[:, 7:63] = True
    # 70 x 56 become 52 x 42 pixels, whole ones, of which the middle 42 x 42 are kept.
    side = math.sqrt(42 * 70 / 52 * 56) / 3
    assert found.tolerances[0] == pytest.approx(side)
    near = [
        [min(math.dist((x, y), (c, r)) for r, c in np.argwhere(mask)) <= side for x in range(70)]
        for y in range(56)
    ]
    assert found.chance == pytest.approx(np.array(near)[seen].mean())


@cache
def everything_on(patch):
    """An edit that gives all attention to one image token."""

    def planted(pattern, *, hook):
        image = hook.site.keys("image")[0].nonzero().flatten()
        pattern = torch.zeros_like(pattern)
        pattern[..., image[patch]] = 1.0
        return pattern

    return vi.Fn("attn.hook_pattern", planted)


def scene_words(sunk, graph, seed=FIRST):
    """The first word of the answer under an edit, as an object of the scene's first mask."""
    scene = vi.toy.scene(seed)
    run = sunk.generate(scene.image, "describe the image", graph, max_new_tokens=8)
    word = ex.answer_words(sunk, run)[0].text
    return ObjectMasks(scene.image, "describe the image", word, scene.masks[0]), scene.objects[0]


def test_planted_attention_peaks_where_it_was_planted(sunk):
    _, thing = scene_words(sunk, None)
    x, y = (int(value // 8) for value in thing.centre)
    far = (0 if y > 3 else 7, 0 if x > 3 else 7)
    for patch, hit in ((y * 8 + x, True), (far[0] * 8 + far[1], False)):
        graph = everything_on(patch)
        one, _ = scene_words(sunk, graph)
        found = ex.localisation(sunk, [one], graph=graph, keys="image", max_new_tokens=8)
        assert found.hits.shape == (1, sunk.n_layers, 1)
        assert found.hits.all() == found.hits.any() == hit
        row, column = divmod(patch, 8)
        middle = np.array([8 * column + 3.5, 8 * row + 3.5])
        assert np.abs(found.peaks - middle).max() <= 0.5
        assert (found.within(64.0).hits).all()


def test_attention_that_sinks_alone_get_has_no_peak_without_them(sunk):
    encoding = sunk.encode(vi.toy.scene(FIRST).image, "describe the image")
    probe = vi.probes.SinkValue("image")
    phi = sunk.run(encoding, graph=probe)[probe].values[:, 0]
    sinks = phi >= sunk.sinks.tau
    layer = 4
    patch = int(sinks[layer].nonzero()[0])
    edit = vi.Fn("attn.hook_pattern", everything_on(patch).fn, layers=layer)
    one, _ = scene_words(sunk, edit)
    found = ex.localisation(sunk, [one], graph=edit, layers=layer, max_new_tokens=8)
    with_sinks, without = found.peaks[:, 0, 0]
    assert with_sinks.min() >= 0
    assert without.tolist() == [-1, -1]
    assert found.distance[1, 0, 0] == np.inf
    assert not found.within(1e6).hits[1].any()


def test_the_row_of_the_token_itself_is_one_later(sunk, located, found, plain, answered):
    own = ex.localisation(sunk, located, row="token")
    assert (own.peaks != found.peaks).any()
    ids = sunk.processor.tokenizer.get_vocab()
    thing = vi.toy.scene(FIRST).objects[0]
    told = answered.ids[0].tolist()
    at = told.index(ids[thing.color], answered.layout.prompt_length)
    image = answered.layout.mask("image")[0]
    for layer in range(sunk.n_layers):
        values = plain.pattern[layer, 0, :, [at, at + 1]].mean((0, 1))[image]
        distance = off_mask(located[0].mask, upsampled(values.double(), (64, 64)))
        assert own.distance[0, layer, 0] == pytest.approx(distance)


def test_a_last_token_has_no_row_of_its_own():
    model, mask = tiny.lmm(), np.ones((56, 70), bool)
    one, at = tiny_located(model, mask)
    ex.localisation(model, [one], keys="image", max_new_tokens=at + 1)
    with pytest.raises(vi.LayoutError, match="no object is named"):
        ex.localisation(model, [one], keys="image", row="token", max_new_tokens=at + 1)
    ex.localisation(model, [one], keys="image", row="token", max_new_tokens=at + 2)


def test_a_batch_is_its_images_one_by_one(sunk, located, found):
    alone = ex.localisation(sunk, located, batch_size=1)
    np.testing.assert_array_equal(alone.peaks, found.peaks)
    backwards = ex.localisation(sunk, located[::-1], batch_size=2)
    np.testing.assert_array_equal(backwards.peaks[:, :, ::-1], found.peaks)


def test_only_what_needs_direct_access(sunk):
    """The paper's selection, against two answers per image."""
    graph = vi.Knockout("image -> generated")
    scenes = [vi.toy.scene(seed) for seed in range(12)]
    shown, asked = [one.image for one in scenes], ["describe the image"] * len(scenes)
    told = sunk.generate(shown, asked, max_new_tokens=48).text
    cut = sunk.generate(shown, asked, graph, max_new_tokens=48).text
    expected = [
        thing.name
        for one, before, after in zip(scenes, told, cut, strict=True)
        for thing in one.objects
        if thing.name in before and thing.name not in after
    ]
    assert expected
    located = ObjectMasks.scenes(12)
    found = ex.localisation(sunk, located, only_direct=True)
    assert [one.words for one in found.located] == expected
    assert (found.given, found.named, found.direct) == (
        len(located),
        sum(t.name in text for s, text in zip(scenes, told, strict=True) for t in s.objects),
        len(expected),
    )
    assert "gone under 'image -> generated' cut" in str(found)


def test_what_an_answer_does_not_name_is_counted(sunk, located):
    strange = ObjectMasks(located[0].image, located[0].prompt, "zebra", located[0].mask)
    found = ex.localisation(sunk, [strange, *located[:2]])
    assert (found.given, found.named, len(found.located)) == (3, 2, 2)
    with pytest.raises(vi.LayoutError, match=r"no object is named in its answer.*'a "):
        ex.localisation(sunk, [strange])
    with pytest.raises(vi.LayoutError, match="needs direct access"):
        kept = [one for one in located if one.words == found.located[0].words]
        ex.localisation(sunk, kept, only_direct=True)


def test_words_are_whole_and_may_be_of_several_tokens(sunk, cases):
    run = sunk.generate(cases.images[0], cases.prompts[0], max_new_tokens=40)
    thing = vi.toy.scene(FIRST).objects[1]
    first, second = ex.naming_rows(sunk, run, thing.name.upper())
    assert [run.words[0][run.answer_rows[i] + 1].strip() for i in (first, second)] == [
        thing.color,
        thing.shape,
    ]
    assert ex.naming_rows(sunk, run, thing.shape[:-1]) == ()
    assert ex.naming_rows(sunk, run, "zebra") == ()
    both = [row for word in ex.answer_words(sunk, run)[:2] for row in word.rows]
    spoken = " ".join(word.text for word in ex.answer_words(sunk, run)[:2])
    assert list(ex.naming_rows(sunk, run, spoken)) == both


@pytest.fixture(scope="module")
def tiles():
    """An image that LLaVA-NeXT cuts into tiles, and a word that its tiny model says about it."""
    model = family_lmm("LLaVA-NeXT")
    image, prompt = tiny.image(1).resize((151, 47)), "count"
    run = model.generate(image, prompt, max_new_tokens=6)
    word = run.words[0][run.layout.prompt_length + 2].strip()
    mask = np.zeros((47, 151), bool)
    mask[10:20, 100:120] = True
    return model, ObjectMasks(image, prompt, word, mask), run


@pytest.mark.parametrize("views", ["all", "whole"])
def test_tiles_are_laid_over_the_whole_image(tiles, views):
    model, one, run = tiles
    found = ex.localisation(
        model, [one], views=views, upsample="nearest", keys="image", max_new_tokens=6
    )
    at = ex.naming_rows(model, run, one.words)
    encoding = model.encode(one.image, one.prompt)
    span = encoding.layout.images[0][0]
    assert len(span.parts) == 2
    probe = vi.probes.Pattern()
    pattern = model.run(encoding.with_answer(run.generated), graph=probe)[probe].values
    rows = [run.answer_rows[i] for i in at]
    labels = list(
        model.run(encoding.with_answer(run.generated), graph=probe)[probe].labels("query")
    )
    image = run.layout.mask("image")[0].nonzero().flatten()
    for layer in range(model.n_layers):
        values = pattern[layer, 0][:, [labels.index(row) for row in rows]].mean((0, 1))
        laid = np.zeros((47, 151))
        for token, place in enumerate(span.places):
            if place is None or (views == "whole" and place[0] != span.whole):
                continue
            left, top, right, bottom = span.patch_box(token)
            x, y = np.arange(151) + 0.5, np.arange(47) + 0.5
            inside = np.outer((y >= top) & (y < bottom), (x >= left) & (x < right))
            laid += inside * float(values[image[token]]) / ((right - left) * (bottom - top))
        x, y = found.peaks[0, layer, 0]
        assert laid[y, x] == pytest.approx(laid.max(), rel=1e-4)
        assert laid.max() > laid.mean()


def test_a_measurement_goes_on_from_its_log(sunk, located, found, tmp_path):
    rows, steps = tmp_path / "rows.jsonl", []
    ex.localisation(
        sunk, located, log=rows, batch_size=2, tick=lambda done, total: steps.append((done, total))
    )
    assert steps == [(2, 3), (3, 3)]
    lines = rows.read_text().splitlines()
    assert len(lines) == 1 + COUNT
    forged = json.loads(lines[1])
    forged["answers"]["peaks"][0]["image"][3] = [1, 2]
    rows.write_text("\n".join([lines[0], signed(forged), lines[2], lines[3][:30]]))
    again = ex.localisation(sunk, located, log=rows, tolerance=3)
    assert again.peaks[0, 3, 0].tolist() == [1, 2]
    expected = found.peaks.copy()
    expected[0, 3, 0] = [1, 2]
    np.testing.assert_array_equal(again.peaks, expected)
    np.testing.assert_array_equal(again.tolerances, 3)
    with pytest.raises(vi.ResultError, match="another measurement"):
        ex.localisation(sunk, located, log=rows, upsample="nearest")
    with pytest.raises(vi.ResultError, match="another measurement"):
        ex.localisation(sunk, located[:-1], log=rows)
    before = sunk.sinks
    try:
        sunk.sinks = vi.SinkDims(before.dims, before.tau * 1.1)
        with pytest.raises(vi.ResultError, match="another measurement"):
            ex.localisation(sunk, located, log=rows)
    finally:
        sunk.sinks = before


def test_numbers_as_a_record_and_as_text(found):
    record = found.record
    assert record.axes == ("keys", "layer", "object")
    mean = record.mean("object")
    torch.testing.assert_close(mean.values, torch.from_numpy(found.rate).float())
    best = found.best
    assert found.rate[0].max() == float(mean.at(keys="image", layer=best).values)
    low, high = found.interval
    assert (low <= found.rate).all()
    assert (found.rate <= high).all()
    lines = str(found).splitlines()
    assert len(lines) == 1 + len(found.layers) + 1
    assert lines[1 + best].startswith(f"{best:5}  {found.rate[0].max():.2f} (")


def test_some_blocks_alone(sunk, located, found):
    some = ex.localisation(sunk, located, layers="2,5", keys=("image & ~sink",))
    assert some.layers == (2, 5)
    np.testing.assert_array_equal(some.peaks[0], found.peaks[1][[2, 5]])


def test_wider_tolerances_never_hit_less(found):
    before = found.within(0)
    for tolerance in (0.5, 1, 2.5, 8, 20, 100):
        judged = found.within(tolerance)
        assert (before.hits <= judged.hits).all()
        assert (before.chances <= judged.chances).all()
        before = judged
    assert before.hits.all()
    assert before.chance == 1
    np.testing.assert_array_equal(before.within(None).hits, found.hits)


def test_masks_must_fit():
    scene = vi.toy.scene(0)
    mask = scene.masks[0]
    for wrong, words in (
        (mask[:-1], r"here \[64, 64\]; got \[63, 64\]"),
        (mask[None], r"got \[1, 64, 64\]"),
        (mask.astype(float), "boolean; got float64"),
        (np.zeros_like(mask), "marks no object"),
    ):
        with pytest.raises(vi.InputError, match=words):
            ObjectMasks(scene.image, "what?", "circle", wrong)
    for images in ([scene.image, scene.image], None):
        with pytest.raises(vi.InputError, match="one image"):
            ObjectMasks(images, "what?", "circle", mask)
    with pytest.raises(vi.InputError, match="needs words"):
        ObjectMasks(scene.image, "what?", "  ", mask)
    assert ObjectMasks(np.asarray(scene.image), "what?", "circle", mask).image.size == (64, 64)


def test_what_cannot_be_asked_is_refused(sunk, located, monkeypatch):
    with pytest.raises(vi.NotationError, match="image & ~sink"):
        ex.localisation(sunk, located, keys="sinks")
    with pytest.raises(vi.NotationError, match="group of keys"):
        ex.localisation(sunk, located, keys=())
    with pytest.raises(vi.NotationError, match="layer 9"):
        ex.localisation(sunk, located, layers=9)
    for tolerance in (-1, math.nan, math.inf, True):
        with pytest.raises(vi.InputError, match="number of pixels"):
            ex.localisation(sunk, located, tolerance=tolerance)
    with pytest.raises(vi.InputError, match="at least one"):
        ex.localisation(sunk, [])
    with pytest.raises(vi.InputError, match="batch_size"):
        ex.localisation(sunk, located, batch_size=0)
    twice = ObjectMasks(located[0].image, "<image> and <image>", "circle", located[0].mask)
    with pytest.raises(vi.InputError, match="2 <image> for 1"):
        ex.localisation(sunk, [twice])

    def none(_):
        raise vi.CapabilityError("no sink dimension found")

    monkeypatch.setattr(sunk, "_sinks", None)
    monkeypatch.setattr(vi.LMM, "sinks", property(none))
    with pytest.raises(vi.CapabilityError, match="no sink dimension"):
        ex.localisation(sunk, located[:1])
    assert ex.localisation(sunk, located[:1], keys="image").peaks.shape == (1, 8, 1, 2)


@every_family_with_image_tokens
def test_in_every_family_the_peak_is_in_the_strongest_patch(name):
    """By the family's own map from tokens to pixels, on the view that shows the whole image."""
    model = family_lmm(name)
    image, prompt = PROMPTS["wide"]
    probe = vi.probes.AttentionMaps(layers=attending(model))
    run = model.generate(image, prompt, probe, max_new_tokens=4)
    word = run.words[0][run.layout.prompt_length + 1].strip()
    mask = np.zeros(image.size[::-1], bool)
    mask[5:10, 20:40] = True
    found = ex.localisation(
        model,
        [ObjectMasks(image, prompt, word, mask)],
        layers=attending(model),
        keys="image",
        views="whole",
        upsample="nearest",
        max_new_tokens=4,
    )
    rows = [run.answer_rows[i] for i in ex.naming_rows(model, run, word)]
    assert rows
    record, span = run[probe], run.layout.images[0][0]
    places = [record.labels("query").index(row) for row in rows]
    maps = record.values[:, 0, places].mean(1)
    whole = [token for token in span.tokens_of() if _in_image(span.patch_box(token), image)]
    peaked = maps[:, whole].amax(1) > maps[:, whole].amin(1)
    assert peaked.any()
    for layer in range(len(found.layers)):
        x, y = map(int, found.peaks[0, layer, 0])
        if not peaked[layer]:  # Gemma's window has left the image behind
            assert (x, y) == (-1, -1)
            continue
        hit = [token for token in whole if token in span.tokens_at(x + 0.5, y + 0.5)]
        assert maps[layer, hit].max() == maps[layer, whole].max()


def _in_image(box, image):
    """Whether the box holds the middle of a pixel: patches of padding do not."""
    left, top, right, bottom = box
    x, y = np.arange(image.width) + 0.5, np.arange(image.height) + 0.5
    return bool(((x >= left) & (x < right)).any() and ((y >= top) & (y < bottom)).any())
