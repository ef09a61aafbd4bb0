"""Files are written whole or not at all, and read without trust."""

import pytest

import vsink_interp as vi
from vsink_interp.storage import entry, read_json, reserved, write_text


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "[1]")
    with pytest.raises(ZeroDivisionError), reserved(path, 1000) as write:
        assert path.read_text() == "[1]"
        raise ZeroDivisionError
    assert path.read_text() == "[1]"
    with reserved(path, 1000) as write:
        write("[22]")
    assert path.read_text() == "[22]"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["none/a.json", ".", "a\0b"])
def test_what_cannot_be_written_says_so_before_the_work(tmp_path, where):
    with pytest.raises(vi.ResultError, match="cannot be written"):
        write_text(tmp_path / where, "")
    with pytest.raises(vi.ResultError, match="cannot be written"), reserved(tmp_path / where, 9):
        pytest.fail("the work began")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000], ids=["half", "bytes", "deep"])
def test_what_is_no_json_names_the_file(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(vi.ResultError, match=r"a\.json holds no graph: it is no JSON"):
        read_json(tmp_path / "a.json", "graph")
    for other in ("b.json", "a\0b", "."):
        with pytest.raises(vi.ResultError, match="holds no graph"):
            read_json(tmp_path / other, "graph")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "no field 'n'"), ([], "no field 'n'"), ({"n": "2"}, "'n' is '2', and should be int"),
        ({"n": True}, "'n' is True"), ({"n": 2.5}, "'n' is 2.5"), ({"n": None}, "'n' is None"),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_named(data, says):
    with pytest.raises(vi.ResultError, match=f"a file.*{says}"):
        entry(data, "n", int, "a file")
    assert entry({"n": 2}, "n", int, "a file") == 2
