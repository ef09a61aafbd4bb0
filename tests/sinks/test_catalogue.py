"""Known sink dimensions: what the packaged file says, and that nobody uses it unasked."""

import json

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.sinks.test_discovery import DIMS, planted
from vsink_interp.sinks import catalogue

PRINTED = {  # Kang et al. (2025)
    "LLaVA-1.5-7B": (1415, 2533),
    "LLaVA-1.5-13B": (2100, 4743),
    "LLaVA-1.5-HD-13B": (2100, 4743),
    "Qwen2-VL-7B": (458, 2570),
    "InternVL2-8B": (3584,),
}


def entry(**more) -> vi.CatalogueEntry:
    given = {"model": "tiny", "dims": DIMS, "tau": 2.0, "width": 64} | more
    return vi.CatalogueEntry(**({"status": "third-party", "source": "a test"} | given))


def test_the_packaged_entries_are_the_papers_and_no_others_are_called_published():
    known = {one.model: one for one in catalogue.entries()}
    assert {name: known[name].dims for name in PRINTED} == PRINTED
    extra = {one.model for one in known.values() if one.status == "published"} - PRINTED.keys()
    assert extra == {"LLaVA-1.6-vicuna-13B"}, "constants of the authors' code"
    assert known["VILA-13B"].status == "inferred"
    assert known["Qwen2.5-VL-7B"].status == "third-party"
    assert all(one.tau is None for one in known.values() if one.status == "third-party")
    assert all(one.source for one in known.values())
    assert len(known) == len(catalogue.entries())


@pytest.mark.parametrize(
    "name", ["LLaVA-1.5-7B", "llava-hf/llava-1.5-7b-hf", "/models/llava-1.5-7b-hf/"]
)
def test_an_entry_is_found_by_model_repository_or_folder(name):
    assert catalogue.find_entry(name).dims == (1415, 2533)


def test_an_unknown_model_lists_the_known():
    with pytest.raises(vi.InputError, match=r"did you mean 'LLaVA-1.5-7B'.*InternVL2-8B"):
        catalogue.find_entry("LLaVA-1.5-7")


def test_dimensions_are_used_where_they_are_asked_for():
    lmm = tiny.fresh()
    lmm.sinks = entry().sinks()
    assert lmm.sinks.dims == DIMS
    assert lmm.sinks.source == "third-party: a test"
    with pytest.raises(vi.InputError, match="no threshold is known for tiny"):
        entry(tau=None).sinks()
    assert entry(tau=None).sinks(1.5).tau == 1.5


def test_an_entry_says_what_it_is():
    assert str(entry()) == "tiny: (7, 30), tau 2 [third-party] a test"
    assert str(entry(tau=None)) == "tiny: (7, 30) [third-party] a test"


@pytest.mark.parametrize(
    "bad", [{"dims": (7, 64)}, {"dims": ()}, {"dims": (-1, 7)}, {"status": "x"}]
)
def test_a_senseless_entry_is_refused(bad):
    with pytest.raises(vi.InputError):
        entry(**bad)


def test_entries_of_ones_own_go_into_a_file_of_ones_own(tmp_path):
    file, before = tmp_path / "mine.json", catalogue.PACKAGED.read_bytes()
    catalogue.add(entry(tau=1.0), file)
    catalogue.add(entry(model="other"), file)
    catalogue.add(entry(), file)
    assert catalogue.entries(file)[-2:] == (entry(model="other"), entry())
    assert catalogue.find_entry("tiny", file) == entry()
    assert catalogue.PACKAGED.read_bytes() == before
    with pytest.raises(vi.InputError, match="packaged catalogue is read-only"):
        catalogue.add(entry(), catalogue.PACKAGED)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2, "entries": []}', '{"format": 1, "entries": [{}]}']
)
def test_a_file_that_is_no_catalogue_is_refused(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(vi.InputError, match="is not a catalogue"):
        catalogue.entries(tmp_path / "bad.json")


def test_a_model_of_a_published_name_is_still_looked_at():
    """Name and width are LLaVA-1.5-7B's in nothing but name: discovery decides, and says so."""
    lmm = vi.LMM(planted().hf_model, tiny.processor())
    lmm.name = "llava-1.5-7b-hf"
    assert lmm.sink_report.dims == DIMS
    assert lmm.sink_report.catalogued is None, "the width is another"
    assert catalogue.published("llava-1.5-7b-hf", 4096).dims == (1415, 2533)
    assert catalogue.published("qwen2.5-vl-7b-instruct", 3584) is None, "third-party"


def test_the_report_says_what_the_catalogue_has():
    report = planted().sink_report
    fields = {name: getattr(report, name) for name in report.__dataclass_fields__}
    same = vi.SinkReport(**fields | {"catalogued": entry()})
    other = vi.SinkReport(**fields | {"catalogued": entry(dims=(1, 2))})
    assert "the catalogue has the same: tiny: (7, 30)" in str(same)
    assert "the catalogue has others: tiny: (1, 2)" in str(other)


def test_verify_compares_with_what_is_found():
    assert vi.verify(planted(), entry()).agrees
    verdict = vi.verify(planted(), entry(dims=(7, 9)))
    assert (verdict.missing, verdict.extra, verdict.agrees) == ((9,), (30,), False)
    with pytest.raises(vi.CapabilityError, match="width 96, this model 64"):
        vi.verify(planted(), entry(width=96))


def test_the_file_is_json_that_others_can_read():
    rows = json.loads(catalogue.PACKAGED.read_text())["entries"]
    assert torch.tensor([max(row["dims"]) < row["width"] for row in rows]).all()
