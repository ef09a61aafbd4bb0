"""No node but one that asks for patterns makes a layer hold a whole pattern."""

import pytest

import vsink_interp as vi
from tests import tiny
from tests.engine.counting import counted
from vsink_interp import probes
from vsink_interp.engine import row_program

TILE = 2**13
STREAMED = {
    "mass": probes.SegmentMass("all"),
    "mass by sinks": probes.SegmentMass("all", groups=("sink & image", "sink", "image & ~sink")),
    "ratio": probes.NonSinkRatio("all"),
    "cut rows": vi.Knockout("bos -> prompt & ~bos"),
    "cut heads": vi.Knockout("bos -> prompt & ~bos", heads=(1,)),
    "scores": vi.edits.ScaleScores("bos", 2.0, rows="prompt"),
    "redistributed": vi.edits.Redistribute("bos", "image", 0.5, rows="prompt"),
    "var": vi.VAR(rho=0.2, min_image_mass=0.05),
}


@pytest.fixture(scope="module")
def encoding():
    return tiny.lmm().encode([tiny.image(i) for i in range(20)], "count the red disc on the left")


def sizes(encoding, graph):
    return counted(lambda: tiny.lmm().run(encoding, graph=graph)).sizes


@pytest.mark.parametrize("name", STREAMED)
def test_rows_are_computed_in_tiles(name, encoding, monkeypatch):
    monkeypatch.setattr(row_program, "TILE_ELEMENTS", TILE)
    monkeypatch.setattr(row_program, "LEAST_ROWS", 1)
    length = encoding.layout.length
    pattern, plain = tiny.HEADS * length**2, sizes(encoding, None)
    # torch 2.6 has no fused attention of grouped keys on the CPU: there, plain attention itself
    # holds whole patterns and masks, and a node may hold no more of them.
    limit = max(TILE, *(size for size in plain if size < pattern / 4))
    assert limit < pattern / 4, "too small to tell"
    more = sizes(encoding, STREAMED[name]) - plain
    assert [size for size in more if size > limit] == []


def test_a_record_grows_with_rows_and_segments_not_with_keys(encoding):
    record = tiny.lmm().run(encoding, graph=STREAMED["mass"])[STREAMED["mass"]]
    segments = len(probes.SegmentMass().groups)
    assert record.values.numel() == tiny.LAYERS * tiny.HEADS * encoding.layout.length * segments


def test_a_pattern_is_as_large_as_it_is(encoding, monkeypatch):
    """The count sees a whole pattern where there is one."""
    monkeypatch.setattr(row_program, "TILE_ELEMENTS", TILE)
    monkeypatch.setattr(row_program, "LEAST_ROWS", 1)
    pattern = tiny.HEADS * encoding.layout.length**2
    assert max(sizes(encoding, probes.Pattern("all"))) >= pattern
