"""Records that answer questions: by place, by label, the largest, the sinks with their pixels."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from vsink_interp import probes
from vsink_interp.results import Recorded, SinkToken

VALUES = torch.arange(24.0).reshape(2, 3, 4)
RECORD = Recorded(VALUES, ("layer", "head", "query"), {"layer": (1, 3), "query": (5, 6, 8, 9)})


def test_places_are_those_of_the_tensor():
    assert torch.equal(RECORD[0, 1], VALUES[0, 1])
    assert torch.equal(RECORD[..., -1], VALUES[..., -1])


def test_sel_goes_by_labels():
    assert torch.equal(RECORD.sel(layer=3, query=8).values, VALUES[1, :, 2])
    some = RECORD.sel(query=[9, 5], head=range(1, 3))
    assert some.axes == RECORD.axes
    assert some.labels("query") == (9, 5)
    assert torch.equal(some.values, VALUES[:, 1:3][:, :, [3, 0]])
    with pytest.raises(vi.ResultError, match=r"choose from: 5, 6, 8, 9"):
        RECORD.sel(query=[7])


def test_argmax_gives_labels():
    values = VALUES.clone()
    values[0, 2, 1] = 100
    record = Recorded(values, RECORD.axes, RECORD.coords)
    assert record.argmax() == {"layer": 1, "head": 2, "query": 6}
    assert float(record.at(**record.argmax()).values) == 100
    assert record.mean("layer", "query").argmax("head") == {"head": 2}
    with pytest.raises(vi.ResultError, match="differs along layer, query"):
        record.argmax("head")
    hidden = Recorded(values, RECORD.axes, RECORD.coords, values < 100)
    assert hidden.argmax() == {"layer": 3, "head": 2, "query": 9}
    with pytest.raises(vi.ResultError, match="no entry"):
        Recorded(values, RECORD.axes, RECORD.coords, values > 1000).argmax()


@pytest.fixture(scope="module")
def run(lmm):
    return lmm.run(vi.toy.scene(3).image, "describe the image", probes.SinkValue())


def test_sinks_are_the_image_tokens_from_tau_on(lmm, run):
    """phi by a few lines of numpy, boxes by the grid of 8 x 8 patches of 8 pixels."""
    resid = lmm.run(
        vi.toy.scene(3).image, "describe the image", probes.Activation("hook_resid_pre", layers=5)
    )[probes.Activation].values[0, 0].double().numpy()  # fmt: skip
    phi = np.abs(resid[:, list(lmm.sinks.dims)]).max(1) / np.sqrt((resid**2).mean(1))
    image = np.flatnonzero(run.layout.mask("image")[0])
    found = run.sinks(layer=5)
    assert [one.token for one in found] == [t for t in image if phi[t] >= lmm.sinks.tau]
    assert 0 < len(found) < 64
    for one in found:
        row, column = divmod(one.token - image[0], 8)
        assert one.box == (column * 8, row * 8, column * 8 + 8, row * 8 + 8)
        assert one.patch == one.token - image[0]
        assert one.phi == pytest.approx(phi[one.token], rel=1e-4)
    top = run.sinks(layer=5, tau=0).topk(10)
    assert [one.token for one in top] == sorted(image, key=lambda t: -phi[t])[:10]
    assert len(run.sinks(layer=5, tau=0)) == 64
    assert isinstance(top[0], SinkToken)
    assert len(top[:3]) == 3


def test_two_images_have_boxes_of_their_own(lmm):
    wide = vi.toy.scene(3).image.resize((128, 64))
    asked = "<image> <image> describe the image"
    run = lmm.run([vi.toy.scene(2).image, wide], asked, probes.SinkValue())
    found = run.sinks(layer=5, tau=0)
    assert [one.image for one in found] == [0] * 64 + [1] * 64
    spans = run.layout.images[0]
    assert all(one.box == spans[one.image].patch_box(one.patch) for one in found)


def test_it_prints_and_shows(run):
    found = run.sinks(layer=5).topk(3)
    assert len(str(found).splitlines()) == 3
    assert "box (" in str(found)
    assert "entering layer 5" in repr(found)
    assert found._repr_html_().count("<tr>") == 4


def test_what_is_not_there_is_refused(lmm, run, tmp_path):
    with pytest.raises(vi.ResultError, match="no record of SinkValue"):
        lmm.run(vi.toy.scene(3).image, "describe the image").sinks(layer=5)
    with pytest.raises(vi.ResultError, match="choose from: 0, 1"):
        run.sinks(layer=40)
    text = lmm.run(None, "describe the image", probes.SinkValue())
    with pytest.raises(vi.ResultError, match="no image token"):
        text.sinks(layer=5)
    run.save(tmp_path)
    assert vi.Run.load(tmp_path).sinks(layer=5) == run.sinks(layer=5)


def test_records_and_runs_show_themselves(lmm):
    graph = probes.SegmentMass() | probes.SinkValue(rows="image")
    run = lmm.generate(vi.toy.scene(3).image, "describe the image", graph, max_new_tokens=4)
    html = run._repr_html_()
    share = run.answering(probes.SegmentMass).at(segment="image").mean("layer", "head")
    assert f'title="{float(share.values[0, 0]):.3f}"' in html
    assert "SegmentMass, SinkValue" in html
    mass = run[probes.SegmentMass]
    assert "take <code>.mean</code>" in mass._repr_html_()
    assert "data:image/png" in run[probes.SinkValue]._repr_html_(), "layer x token is a heat map"
    by_layer = mass.at(segment="image").mean("batch", "head", "query")
    assert by_layer._repr_html_().count("<tr>") == 1 + lmm.n_layers
    plain = lmm.generate(vi.toy.scene(3).image, "describe the image", max_new_tokens=4)
    assert plain.text in plain._repr_html_()
