"""Runs and records."""

import copy
import pickle

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp.probes import AttentionMaps, Pattern, SegmentMass, SinkValue
from vsink_interp.results import Recorded, join

VALUES = torch.arange(24.0).reshape(2, 3, 4)
RECORD = Recorded(VALUES, ("layer", "head", "query"), {"layer": (1, 3), "query": (5, 6, 8, 9)})


def test_it_prints_its_axes():
    assert repr(RECORD) == "Recorded(layer=2, head=3, query=4)"


def test_it_is_picked_by_label():
    picked = RECORD.at(layer=3, query=8)
    assert picked.axes == ("head",)
    assert torch.equal(picked.values, VALUES[1, :, 2])
    assert RECORD.at(head=2).labels("query") == (5, 6, 8, 9)
    assert RECORD.labels("head") == (0, 1, 2)


def test_means_leave_nan_out_and_keep_labels():
    values = VALUES.clone()
    values[0, 0] = torch.nan
    mean = Recorded(values, RECORD.axes, RECORD.coords).mean("head")
    assert mean.axes == ("layer", "query")
    assert torch.equal(mean.values[0], VALUES[0, 1:].mean(0))
    assert mean.labels("layer") == (1, 3)
    both = RECORD.mean("query", "layer")
    assert torch.equal(both.values, VALUES.mean((0, 2)))


def test_unknown_axes_and_labels_list_the_known():
    with pytest.raises(vi.ResultError, match="choose from: layer, head, query"):
        RECORD.mean("hed")
    with pytest.raises(vi.ResultError, match=r"label of query.*choose from: 5, 6, 8, 9"):
        RECORD.at(query=7)
    with pytest.raises(vi.ResultError, match=r"label of query.*choose from: 5, 6, 8, 9"):
        RECORD.places("query", (5, 7))
    assert RECORD.places("query", (8, 5)) == [2, 0]
    assert RECORD.places("head", (2,)) == [2]


def test_tables_hold_every_number_with_its_labels():
    table = RECORD.to_pandas()
    assert list(table.columns) == ["layer", "head", "query", "value"]
    found = table[(table.layer == 3) & (table["head"] == 1) & (table["query"] == 9)]
    assert found.value.item() == VALUES[1, 1, 3]
    assert len(table) == 24
    array = RECORD.to_xarray()
    assert array.dims == RECORD.axes
    assert float(array.sel(layer=1, query=6)[2]) == VALUES[0, 2, 1]


def test_half_precision_records_become_tables():
    half = Recorded(VALUES.bfloat16(), RECORD.axes, RECORD.coords)
    assert half.to_pandas().value.sum() == VALUES.sum()
    assert half.to_xarray().shape == VALUES.shape


def test_passes_are_joined_along_the_query_and_missing_keys_are_zero():
    pieces = {
        layer: [
            (4, torch.full((1, 2, 3, 7), layer + 1.0)),
            (7, torch.full((1, 2, 1, 8), layer + 5.0)),
        ]
        for layer in (2, 5)
    }
    joined = join(Pattern(), pieces)
    assert joined.axes == ("layer", "batch", "head", "query", "key")
    assert joined.values.shape == (2, 1, 2, 4, 8)
    assert joined.coords["layer"] == (2, 5)
    assert joined.coords["query"] == (4, 5, 6, 7)
    assert (joined.values[1, :, :, :3, :7] == 6).all()
    assert (joined.values[1, :, :, :3, 7] == 0).all()
    assert (joined.values[1, :, :, 3] == 10).all()


def test_probes_without_rows_are_joined_by_step():
    pieces = {0: [(0, torch.zeros(1, 3)), (4, torch.ones(1, 3))]}
    joined = join(nodes.loudest, pieces)
    assert joined.axes == ("layer", "step", "batch", "d_model")
    assert joined.values[0, :, 0, 0].tolist() == [0, 1]


GRAPH = SegmentMass() | SinkValue() | AttentionMaps(layers="1:") | vi.VAR(rho=0.2)


@pytest.mark.parametrize("generates", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_a_run_is_saved_and_loaded(tmp_path, batched, generates):
    encoding = tiny.batch("one image", "two images") if batched else tiny.encode()
    lmm = tiny.lmm()
    run = lmm.generate(encoding, graph=GRAPH, max_new_tokens=3) if generates else lmm.run(
        encoding, graph=GRAPH
    )  # fmt: skip
    run.save(tmp_path / "run")
    back = vi.Run.load(tmp_path / "run")
    assert back.graph == run.graph
    assert (back.text, back.words, back.model) == (run.text, run.words, run.model)
    assert torch.equal(back.ids, run.ids)
    assert torch.equal(back.logits, run.logits)
    assert str(back.layout) == str(run.layout)
    assert back.layout.images == run.layout.images
    assert back.layout.prompt_length == run.layout.prompt_length
    assert back.records.keys() == run.records.keys()
    for probe in (SegmentMass(), SinkValue(), AttentionMaps(layers="1:")):
        assert back[probe].axes == run[probe].axes
        assert back[probe].coords == run[probe].coords
        assert torch.equal(back[probe].values.nan_to_num(-1), run[probe].values.nan_to_num(-1))


@pytest.mark.parametrize("how", [copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
def test_a_run_can_be_copied_and_pickled(how):
    run = tiny.lmm().generate(tiny.encode(), graph=GRAPH, max_new_tokens=2)
    back = how(run)
    assert (back.graph, back.text, back.words) == (run.graph, run.text, run.words)
    assert torch.equal(back.logits, run.logits)
    assert torch.equal(back[SegmentMass()].values, run[SegmentMass()].values)
    assert torch.equal(back.layout.mask("image"), run.layout.mask("image"))


def test_a_run_with_bare_functions_is_saved_with_stand_ins_for_them(tmp_path):
    """The rest of the graph comes back; what holds a function shows its text and refuses to run."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    resid = lmm.run(encoding, graph=vi.probes.Resid("all", 1))
    bare = [
        vi.Fn("hook_embed", nodes.grow),
        nodes.sharpest,
        vi.Patch("hook_resid_post", resid, 1, rows="query"),
    ]
    kept = [vi.Knockout("image -> query", "2:"), SegmentMass(), vi.DropKeys("image", (1, 2))]
    run = lmm.generate(encoding, graph=vi.EditGraph(*bare, *kept), max_new_tokens=2)
    run.save(tmp_path / "one")
    back = vi.Run.load(tmp_path / "one")
    assert repr(back.graph) == repr(run.graph)
    assert str(back.graph) == str(run.graph)
    assert back.graph[3:] == vi.EditGraph(*kept)
    assert torch.equal(back[back.graph[1]].values, run[nodes.sharpest].values)
    assert torch.equal(back[kept[1]].values, run[kept[1]].values)
    back.save(tmp_path / "two")
    assert vi.Run.load(tmp_path / "two").graph == back.graph
    for node in back.graph[:3]:
        with pytest.raises(vi.CapabilityError, match=r"read from a saved run.*Make it anew"):
            lmm.run(encoding, graph=node)
    lmm.generate(encoding, graph=back.graph[3:], max_new_tokens=2)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(vi.ResultError, match="holds no run"):
        vi.Run.load(tmp_path)


def test_a_probe_that_did_not_run_is_named_with_those_that_did():
    run = tiny.lmm().run(tiny.encode(), graph=SegmentMass())
    with pytest.raises(vi.ResultError, match=r"no record of Pattern.*its probes are: SegmentMass"):
        run[Pattern()]
    assert run[SegmentMass()] is run[repr(SegmentMass())]


def test_a_probe_before_and_behind_an_edit_keeps_both_records():
    probe, encoding = Pattern(), tiny.encode()
    edit = vi.VAR(p=0.9, rho=0.2, min_image_mass=0.1)
    run = tiny.lmm().run(encoding, graph=probe | edit | probe | probe)
    first, second = (run[f"{probe!r}#{i}"].values for i in (1, 2))
    assert nodes.apart(first[0], second[0]) > 0.05
    assert torch.equal(first, tiny.lmm().run(encoding, graph=probe | edit)[probe].values)
    assert torch.equal(second, tiny.lmm().run(encoding, graph=edit | probe)[probe].values)
    with pytest.raises(vi.ResultError, match=r"#1.*#2"):
        run[probe]


def test_answer_rows_are_those_that_predict_the_answer():
    run = tiny.lmm().generate(tiny.encode(), max_new_tokens=4)
    prompt = tiny.encode().layout.length
    assert list(run.answer_rows) == [prompt - 1, prompt, prompt + 1, prompt + 2]
    assert run.generated.shape == (1, 4)
    best = run.logits.index_fill(2, torch.arange(5), -torch.inf).argmax(-1)
    assert torch.equal(best, run.generated)
    assert np.array(run.words).shape == run.ids.shape
    assert run.words[0][prompt:] == tuple(run.text.split())


def test_a_record_is_found_by_class_and_by_name():
    one = SegmentMass(layers=1)
    run = tiny.lmm().run(tiny.encode(), graph=one | nodes.sharpest | Pattern(layers=0) | Pattern())
    assert run[SegmentMass] is run[one]
    assert run["SegmentMass"] is run[one]
    assert run["sharpest"] is run[nodes.sharpest]
    with pytest.raises(
        vi.ResultError, match=r"2 records of Pattern; name one: Pattern\(.*layers=0"
    ):
        run[Pattern]
    with pytest.raises(vi.ResultError, match="no record of SinkValue"):
        run[SinkValue]


def test_the_first_and_the_last_token_of_a_prompt():
    encoding = tiny.batch("one image", "short")
    real = encoding.inputs["attention_mask"].bool()
    places = torch.arange(real.shape[1]).expand_as(real)
    first = places.masked_fill(~real, 99).min(-1).values
    record = tiny.lmm().run(encoding, graph=SegmentMass("last", groups=("first", "~first")))
    assert record["SegmentMass"].labels("query") == (real.shape[1] - 1,)
    eager = tiny.lmm(attention="eager").hf_model
    with torch.no_grad():
        patterns = torch.stack(eager(**encoding.inputs, output_attentions=True).attentions)
    wanted = torch.stack([patterns[:, i, :, -1, first[i]] for i in range(2)], 1)
    got = record[SegmentMass].values[:, :, :, 0]
    assert nodes.apart(got[..., 0], wanted) < 2e-5
    assert nodes.apart(got.sum(-1), torch.ones_like(wanted)) < 2e-5


def test_what_counts_is_saved_and_loaded(tmp_path):
    probe = SegmentMass()
    run = tiny.lmm().generate(tiny.batch("one image", "short"), graph=probe, max_new_tokens=3)
    again = tiny.lmm().run(tiny.batch("one image", "short").with_answer(run), graph=probe)
    for at, one in enumerate((run, again)):
        one.save(tmp_path / str(at))
        back = vi.Run.load(tmp_path / str(at))
        assert torch.equal(back[probe].counts, one[probe].counts)
        assert back.layout.first_pass == one.layout.first_pass
        assert torch.equal(back.generated, run.generated)
        assert back.answer_rows == run.answer_rows


def test_groups_that_were_not_recorded_are_refused():
    run = tiny.lmm().run(tiny.encode(), graph=SinkValue("image") | Pattern("query"))
    with pytest.raises(vi.ResultError, match=r"recorded nothing of 'query'"):
        run.of(SinkValue("image"), "query")
    with pytest.raises(vi.LayoutError, match=r"no image\[1\] token"):
        run.of(Pattern("query"), "image[1]")
    with pytest.raises(vi.LayoutError, match="depends on the layer"):
        run.of(Pattern("query"), "sink & image")
