"""Which entries of a record count and which are an image token's: in every family, in batches."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import vsink_interp as vi
from tests.families import plain
from tests.families.test_families import (
    PROMPTS,
    SINKS,
    TINY,
    attending,
    batch,
    lmm,
)
from tests.restated import phi
from vsink_interp import experiments as ex, probes
from vsink_interp.cli import main

every_family_with_image_tokens = pytest.mark.parametrize(
    "name", [name for name, form in TINY.items() if form.sight != "cross-attention"]
)
"""Of all families: what holds of some does not hold of those that are put together from them."""
NEAR = {"atol": 3e-5, "rtol": 1e-3, "equal_nan": True}


def eager(name, inputs):
    """Attentions and entering residuals of plain transformers, of the layers with a pattern."""
    model, entered = lmm(name, "eager"), []

    def keep(_, args, kwargs):
        entered.append((args[0] if args else kwargs["hidden_states"]).clone())

    blocks = plain.decoder_layers(model.hf_model)
    handles = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in blocks]
    with torch.no_grad(), plain.hooked(handles):
        patterns = model.hf_model(**inputs, output_attentions=True).attentions
    layers = attending(model)
    patterns = [patterns[at] for at in layers] if len(patterns) == model.n_layers else patterns
    return torch.stack(list(patterns)), torch.stack([entered[at] for at in layers])


def image_tokens(name, encoding):
    """The positions of each image's tokens, sample by sample, from ids and sizes alone."""
    id_, found = lmm(name).hf_model.config.image_token_id, []
    for ids, spans in zip(encoding.inputs["input_ids"], encoding.layout.images, strict=True):
        places = (ids == id_).nonzero().flatten()
        found.append(places.split([span.size for span in spans]) if spans else ())
    return found


@every_family_with_image_tokens
def test_an_image_tokens_entry_is_found_the_same_way_from_every_record(name):
    model, (_, encoding) = lmm(name, "eager"), batch(name)
    at = attending(model)
    asked = {
        "phi": probes.SinkValue(layers=at),
        "resid": probes.Resid("image", at, at="pre"),
        "pattern": probes.Pattern("query", at),
        "maps": probes.AttentionMaps("query", at),
    }
    run = model.run(encoding, graph=vi.EditGraph(*asked.values()))
    patterns, resid = eager(name, encoding.inputs)
    compared = 0
    for sample, images in enumerate(image_tokens(name, encoding)):
        rows = encoding.layout.mask("query")[sample].nonzero().flatten().tolist()
        pattern = patterns[:, sample][:, :, rows]
        values = {
            "phi": torch.as_tensor(phi(resid[:, sample], SINKS.dims)),
            "resid": resid[:, sample].transpose(1, 2),
            "pattern": pattern,
            "maps": pattern.mean(1),
        }
        for number, places in enumerate(images):
            for what, probe in asked.items():
                found = run.of(probe, f"image[{number}]").at(batch=sample)
                size = len(places)
                got = found.taken("token", range(size))
                got = got.taken("query", rows).values if "query" in got.axes else got.values
                got = got.transpose(1, 2) if what == "resid" else got
                torch.testing.assert_close(got.double(), values[what][..., places].double(), **NEAR)
                more = found.taken("token", range(size, found.values.shape[found.axis("token")]))
                assert more.mean().values.isnan(), "nothing else counts"
                compared += 1
    assert compared >= 12


REDUCED = {
    "mass": (probes.SegmentMass, ("query",)),
    "maps": (probes.AttentionMaps, ("query", "patch")),
    "pattern": (probes.Pattern, ("query", "key")),
    "contribution": (probes.Contribution, ("query", "key")),
    "ratio": (probes.NonSinkRatio, ("query",)),
    "phi": (probes.SinkValue, ("token",)),
    "logits": (probes.Logits, ("query",)),
}


def reductions(record, axes, k):
    """What is left of a record of one sample by every reduction over some axes."""
    found = [getattr(record, how)(*axes).values for how in ("mean", "sum", "max")]
    top, _ = (record.mean(*axes[:-1]) if axes[1:] else record).topk(k, axes[-1])
    return [*found, top.values]


@every_family_with_image_tokens
def test_a_records_reductions_equal_those_of_each_sample_alone(name):
    """In a batch whose prompts and answers are of different length."""
    model, (chosen, encoding) = lmm(name), batch(name)
    where = {"layers": attending(model)}
    graph = {
        what: kind(**({} if what == "logits" else where))
        for what, (kind, _) in REDUCED.items()
        if what != "contribution" or not model.hooked.gating
    }
    free = model.generate(encoding, max_new_tokens=5)
    end = int(free.generated[0, 1])
    more = {"max_new_tokens": 5, "eos_token_id": end}
    together = model.generate(encoding, graph=vi.EditGraph(*graph.values()), **more)
    assert len(set(together.layout.mask("all").sum(-1).tolist())) > 1
    for sample, prompt in enumerate(chosen):
        fits = {what: it for what, it in graph.items() if prompt != "text" or what not in IMAGED}
        alone = model.generate(*PROMPTS[prompt], vi.EditGraph(*fits.values()), **more)
        for what, probe in fits.items():
            axes = REDUCED[what][1]
            k = min(2, alone[probe].values.shape[alone[probe].axis(axes[-1])])
            got = reductions(together[probe].at(batch=sample), axes, k)
            want = reductions(alone[probe].at(batch=0), axes, k)
            for one, other in zip(got, want, strict=True):
                torch.testing.assert_close(one, other, **NEAR)


IMAGED = ("maps", "ratio")
"""What refuses a prompt without an image."""


@every_family_with_image_tokens
def test_mean_over_rows_counts_those_asked_for_that_can_see_the_image(name):
    """README's line, against transformers' own attentions: a row sees what it gives more than 0."""
    model, (_, encoding) = lmm(name, "eager"), batch(name)
    mass = probes.SegmentMass(layers=attending(model))
    run = model.run(encoding, graph=mass)
    patterns, _ = eager(name, encoding.inputs)
    is_image = encoding.inputs["input_ids"] == model.hf_model.config.image_token_id
    shares = (patterns * is_image[:, None, None]).sum(-1)
    asked = encoding.layout.mask("query") & encoding.inputs["attention_mask"].bool()
    counts = asked & (patterns * is_image[:, None, None] > 0).any(-1).any(2)  # layer batch query
    expected = (shares.mean(2) * counts).sum((1, 2)) / counts.sum((1, 2))
    got = run[mass].at(segment="image").mean("batch", "head", "query").values
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    whole = run[mass].values[..., 2].mean((1, 2, 3))
    assert (got - whole).abs().max() > 1e-3, "all that was recorded is another mean"


@pytest.mark.parametrize("group", ["image", "query"])
def test_rows_and_tokens_are_masked_together(group):
    model = lmm("LLaVA-1.5")
    encoding = model.encode(*PROMPTS["two"])
    probe = probes.Pattern("all")
    run = model.run(encoding, graph=probe)
    found = run.of(probe, group, rows="query").mean("query").values
    rows, keys = (encoding.layout.mask(g)[0].nonzero().flatten().tolist() for g in ("query", group))
    values = run[probe].values[:, 0]
    for at, key in enumerate(keys):
        later = [row for row in rows if row >= key]
        torch.testing.assert_close(found[:, 0, :, at], values[:, :, later, key].mean(2))


SPREAD = ("Mistral 3", "Idefics3", "LLaVA-NeXT", "Qwen2-VL")
"""Image tokens in several runs: rows that end, tiles, tokens before the picture."""


@pytest.mark.parametrize("name", SPREAD)
def test_sinks_of_an_image_are_flagged_where_they_are(name, monkeypatch, tmp_path):
    """In maps of words and by `vsink detect`: against phi at the positions of the image's ids."""
    model, (shown, prompt) = lmm(name, "eager"), PROMPTS["wide"]
    encoding = model.encode(shown, prompt)
    ((places,),) = image_tokens(name, encoding)
    _, resid = eager(name, encoding.inputs)
    expected = np.asarray(phi(resid[:, 0], SINKS.dims))[:, places] >= SINKS.tau
    assert 0 < expected.mean() < 1
    maps = ex.word_maps(model, shown, prompt, max_new_tokens=4)
    np.testing.assert_array_equal(maps.sinks_by_layer, expected)

    shown.save(tmp_path / "shown.png")
    monkeypatch.setattr(main, "open_model", lambda _: model)
    words = ["detect", "--image", str(tmp_path / "shown.png"), "--prompt", prompt, "--json"]
    found = json.loads(CliRunner().invoke(main.app, words).stdout)["visual_sinks"]
    assert found == {str(at): row.nonzero()[0].tolist() for at, row in enumerate(expected)}


@pytest.mark.parametrize("name", SPREAD)
def test_image_tokens_of_cases_of_different_size(name):
    """Each image's own tokens, and means over the rows that can see each of them."""
    model, at = lmm(name, "eager"), (1, 2)
    shown, prompts = zip(*(PROMPTS[prompt] for prompt in ("wide", "high", "one")), strict=True)
    cases = ex.Cases(shown, prompts, max_new_tokens=4)
    found = ex.sink_values(model, cases, layers=at)
    added = ex.contributions(model, cases, layers=at)
    values, received = [], []
    for image, prompt in zip(shown, prompts, strict=True):
        encoding = model.encode(image, prompt)
        ((places,),) = image_tokens(name, encoding)
        longer = encoding.with_answer(model.generate(encoding, max_new_tokens=4))
        patterns, resid = eager(name, longer.inputs)
        text = longer.layout.mask("query generated")[0]
        text[-1] = False  # the last token of an answer is not fed back
        given = patterns[list(at), 0].mean(1)[:, text][..., places]
        received.append(given.sum(1) / (given > 0).sum(1))
        values.append(torch.as_tensor(phi(resid[list(at), 0], SINKS.dims))[:, places])
    values, received = torch.cat(values, 1), torch.cat(received, 1)
    np.testing.assert_allclose(found.image_phi, values, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.attention, received, rtol=1e-3, atol=1e-5)
    sink = values >= SINKS.tau
    assert added.sinks == int(sink.sum()) > 0
    expected = [received[sink].mean(), received[~sink].mean()]
    np.testing.assert_allclose(added.attention, expected, rtol=1e-3)


def test_one_image_of_several_is_drawn():
    model, (shown, prompt) = lmm("Qwen2-VL"), PROMPTS["two"]
    probe = probes.AttentionMaps()
    run = model.generate(shown, prompt, probe, max_new_tokens=2)
    with pytest.raises(vi.InputError, match=r"2 images: say which.*number=0 to 1"):
        vi.plot.overlay(run, shown[1])
    (first, *_), *_ = [word.rows for word in ex.spoken_words(run)]
    maps = run.of(run.answering(probe), "image[1]").mean("layer").values[0, first]
    figure = vi.plot.overlay(run, shown[1], number=1, words=[0])
    rows, columns = run.layout.images[0][1].grid
    drawn = figure.axes[0].images[-1].get_array()
    assert drawn.shape[:2] == (rows, columns)
    strength = (maps / maps.max()).reshape(rows, columns).numpy()
    np.testing.assert_allclose(drawn[..., 3], 0.9 * strength**0.6, atol=0.02)
