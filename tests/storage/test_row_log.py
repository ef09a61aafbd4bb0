"""A log of rows: what it holds is what was written, by one writer, of one piece of work."""

import json
import multiprocessing
import resource

import pytest

import vsink_interp as vi
from tests.logs import signed
from vsink_interp.storage import RowLog, logged, row_log

ABOUT = {"model": "toy", "graph": ["VAR 12ab"], "sinks": None}
ROWS = {"one": ["a red disc", "ünïcode \ud800"], "two": {"peaks": [[1, 2]], "direct": None}}


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "rows.jsonl")


def write(path, rows=ROWS, about=ABOUT):
    with RowLog(path, about) as log:
        for step, row in rows.items():
            log.add(step, row)
    return path


def read(path, about=ABOUT):
    with RowLog(path, about) as log:
        return log.known


def test_rows_come_back(path):
    assert read(path) == ROWS == logged(path)
    lines = path.read_text().splitlines()
    assert lines[2] == signed({"step": "two", "answers": ROWS["two"]})
    assert json.loads(lines[0])["about"] == ABOUT


def test_without_a_file_rows_are_in_memory():
    with RowLog(None, ABOUT) as log:
        log.add("one", 1)
    assert log.known == {"one": 1}


@pytest.mark.parametrize("about", [ABOUT | {"model": "tuned"}, ABOUT | {"more": 1}, {}])
def test_other_work_is_refused_by_what_differs(path, about):
    differs = {"model": "model", "more": "more"}.get(next(iter(about.keys() - ABOUT), "model"))
    with pytest.raises(vi.ResultError, match=f"rows.jsonl.*they differ in: .*{differs}"):
        read(path, about)
    assert read(path) == ROWS


def test_it_goes_on_wherever_it_was_cut_short(path):
    """After every byte of the file: rows that were whole are there, and the rest is done again."""
    whole = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in {*range(0, len(whole), 7), *ends, *(end + 1 for end in ends)}:
        path.write_bytes(whole[:cut])
        kept = read(path)
        assert len(kept) == max(0, sum(end < cut for end in ends) - 1)
        assert write(path, {step: ROWS[step] for step in ROWS if step not in kept})
        assert read(path) == ROWS
        assert path.read_bytes() == whole


def test_every_flipped_byte_is_noticed(path):
    whole = path.read_bytes()
    second = whole.index(b"\n", whole.index(b"\n") + 1)
    for place in range(0, second, 3):
        flipped = bytearray(whole)
        flipped[place] ^= 0x15
        path.write_bytes(flipped)
        with pytest.raises(vi.ResultError, match=r"rows\.jsonl"):
            read(path)


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe", b"[]", b"{}", b'{"step": "x", "answers": 1}', b"[" * 100_000, b"", b"null"],
    ids=["bytes", "list", "empty", "unsigned", "deep", "blank", "null"],
)
def test_a_damaged_line_names_itself_and_its_cure(path, line):
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(vi.ResultError, match=r"line 2 of .*rows\.jsonl is damaged.*remove that"):
        read(path)
    path.write_bytes(b"\n".join([lines[0], *lines[2:]]))
    assert read(path) == {"two": ROWS["two"]}


@pytest.mark.parametrize("content", [b"", b'{"form'], ids=["empty", "half a line"])
def test_a_first_line_that_was_never_finished_is_written_again(path, content):
    path.write_bytes(content)
    assert read(path) == {}
    write(path)
    assert read(path) == ROWS


@pytest.mark.parametrize(
    "head", [b"# my notes\n", b'{"format": 1, "setting": "x"}\n', b"\x00\n", b"no end"]
)
def test_a_file_that_is_no_log_is_left_alone(path, head):
    path.write_bytes(head)
    with pytest.raises(vi.ResultError, match=r"rows\.jsonl belongs to another measurement"):
        read(path)
    assert path.read_bytes() == head


def test_one_writer_at_a_time(path):
    with (
        RowLog(path, ABOUT),
        pytest.raises(vi.ResultError, match="another process or thread"),
        RowLog(path, ABOUT),
    ):
        pass
    assert read(path) == ROWS


def test_a_missing_folder_is_an_error_before_any_work(tmp_path):
    for path in (tmp_path / "none" / "rows.jsonl", tmp_path, f"{tmp_path}/a\0b"):
        with pytest.raises(vi.ResultError, match=r"cannot be written.*a folder that exists"):
            read(path)


def _fill(path, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    with RowLog(path, ABOUT) as log:
        try:
            for i in range(100):
                log.add(f"row {i}", "x" * 100)
        except vi.ResultError as error:
            said.put((str(error), len(log.known) - 1))


def test_no_room_left_loses_no_finished_row(tmp_path):
    """A limit on the size of files stands in for a full disk."""
    path, context = tmp_path / "rows.jsonl", multiprocessing.get_context("fork")
    said = context.Queue()
    process = context.Process(target=_fill, args=(path, said))
    process.start()
    error, finished = said.get(timeout=60)
    process.join()
    assert "cannot be written" in error and "Make room" in error
    assert finished > 5
    assert len(read(path)) == finished


def test_entered_again_it_reads_only_what_is_new(path, monkeypatch):
    """What others added is found, a damaged line among it too; and a file that was replaced."""
    log, length, inner = RowLog(path, ABOUT), [], row_log._rows

    def counted(at, found, first=1):
        length.append(len(found))
        return inner(at, found, first)

    monkeypatch.setattr(row_log, "_rows", counted)
    with log:
        log.add("mine", 1)
    whole = length.pop()
    with RowLog(path, ABOUT) as other:
        other.add("theirs", 2)
    length.clear()
    with log:
        assert log.known == {**ROWS, "mine": 1, "theirs": 2}
        log.add("mine too", 3)
    assert 0 < length.pop() < whole
    kept = path.read_bytes()
    path.write_bytes(kept + b'{"step": "odd"}\n')
    with pytest.raises(vi.ResultError, match=f"line {kept.count(bytes([10])) + 1} of"), log:
        pass
    path.unlink()
    with log:
        assert log.known == {}
    assert read(path) == {}
