"""Which entries of a record count and which are an image token's: in every family, in batches."""

import pytest
import torch

import vsink_interp as vi
from tests.families import plain
from tests.families.test_families import (
    PROMPTS,
    SINKS,
    attending,
    batch,
    every_family_with_image_tokens,
    lmm,
)
from tests.restated import phi
from vsink_interp import probes

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
    "phi": (probes.SinkValue, ("query",)),
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
    counts = asked & (patterns * is_image[:, None, None] > 0).any(-1).any(2).any(0)
    expected = shares.transpose(2, 3)[:, counts].mean((1, 2))
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
