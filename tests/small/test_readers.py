"""The readers of GGUF and ONNX files, on files written here byte by byte."""

import struct

import numpy as np
import pytest

import vsink_interp as vi
from vsink_interp.small.gguf import GgufFile
from vsink_interp.small.onnx import read_onnx


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf(pairs, tensors):
    """A GGUF file: pairs of name and packed value, tensors of name, shape, type and bytes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    head += b"".join(text(name) + value for name, value in pairs)
    at = 0
    for name, shape, kind, raw in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += struct.pack("<IQ", kind, at)
        at += -(-len(raw) // 32) * 32
    data = b"".join(raw + bytes(-len(raw) % 32) for *_, raw in tensors)
    return head + bytes(-len(head) % 32) + data


def test_metadata_and_every_type(tmp_path):
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(3, 4)).astype(np.float32)
    scale, least = np.float16(0.5), np.float16(-2.0)
    low, high = rng.integers(0, 16, (2, 16), dtype=np.uint8)
    signed = rng.integers(-128, 128, 32, dtype=np.int8)
    q4 = scale.tobytes() + least.tobytes() + (low | high << 4).astype(np.uint8).tobytes()
    pairs = [
        ("a.number", struct.pack("<II", 4, 7)),
        ("a.text", struct.pack("<I", 8) + text("seven")),
        ("a.list", struct.pack("<IIQ", 9, 8, 2) + text("one") + text("two")),
        ("a.flag", struct.pack("<I?", 7, True)),
    ]
    tensors = [
        ("plain", (3, 4), 0, plain.tobytes()),
        ("q4", (1, 32), 3, q4),
        ("q8", (2, 16), 8, scale.tobytes() + signed.tobytes()),
        ("half", (1,), 1, b"\0\0"),
    ]
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(pairs, tensors))
    found = GgufFile(path)
    assert found.metadata == {
        "a.number": 7, "a.text": "seven", "a.list": ["one", "two"], "a.flag": True
    }  # fmt: skip
    assert np.array_equal(found.tensor("plain"), plain)
    assert np.array_equal(found.tensor("q4")[0], 0.5 * np.concatenate([low, high]) - 2.0)
    assert np.array_equal(found.tensor("q8"), (0.5 * signed).reshape(2, 16))
    with pytest.raises(vi.errors.InputError, match="half has the GGML type 1"):
        found.tensor("half")


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGML" + bytes(64))
    with pytest.raises(vi.errors.InputError, match="no GGUF file"):
        GgufFile(path)
    with pytest.raises(vi.errors.InputError, match="no ONNX file"):
        read_onnx(path)


def field(number, value):
    """A protobuf field: a number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def test_weights_and_nodes_of_an_onnx_file(tmp_path):
    values = np.arange(600, dtype=np.float32).reshape(200, 3)
    weight = field(1, 200) + field(1, 3) + field(2, 1) + field(8, "w") + field(9, values.tobytes())
    packed = field(1, varint(3) + varint(1)) + field(2, 1) + field(8, "p")
    packed += field(9, values[:3, :1].tobytes())
    whole = field(1, 1) + field(2, 7) + field(8, "ids") + field(9, bytes(8))
    node = (
        field(1, "x") + field(1, "w") + field(2, "y") + field(3, "/a/MatMul") + field(4, "MatMul")
    )
    graph = field(1, node) + field(5, weight) + field(5, packed) + field(5, whole)
    path = tmp_path / "model.onnx"
    path.write_bytes(field(1, 8) + field(7, graph))
    weights, nodes = read_onnx(path)
    assert weights.keys() == {"w", "p"}, "whole numbers are no weights"
    assert np.array_equal(weights["w"], values)
    assert np.array_equal(weights["p"], values[:3, :1])
    assert nodes == {"/a/MatMul": ["x", "w"]}
