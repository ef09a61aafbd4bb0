"""The words of an answer, where one letter may be several tokens."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import vsink_interp as vi
from tests import tiny
from vsink_interp import experiments as ex
from vsink_interp.experiments.encoded_cases import EncodedCases

MERGES = [("c", "a"), ("ca", "f"), ("Ġ", "a"), ("s", "t")]


def byte_level():
    """As Qwen's and Llama 3's tokenizers: bytes, some of them merged; é is two, 猫 three."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = {token: i for i, token in enumerate(["</s>", *letters, *("".join(m) for m in MERGES)])}
    inner = Tokenizer(models.BPE(known, MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>")


def byte_fallback():
    """As Llama 2's and Gemma's: whole letters, and bytes for those that it does not know."""
    letters = [*"▁abcdefghijklmnopqrstuvwxyz.,", *(f"<0x{i:02X}>" for i in range(256))]
    known = {token: i for i, token in enumerate(["</s>", "<unk>", *letters])}
    inner = Tokenizer(models.BPE(known, [], unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


@cache
def model(kind):
    lmm = tiny.fresh()
    lmm.processor.tokenizer = {"bytes": byte_level, "fallback": byte_fallback}[kind]()
    return lmm


def answer(kind, text, end=()):
    """A run whose answer is this text, and the text that each of its tokens alone spells."""
    lmm, encoding = model(kind), tiny.encode()
    spelt = lmm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    new = torch.tensor([[*spelt, *end]])
    run = tiny.lmm().run(encoding)
    ids = torch.cat([encoding.inputs["input_ids"], new], 1)
    return lmm, replace(run, ids=ids, layout=encoding.layout.extend(new.shape[1])), len(spelt)


def by_bytes(kind, text, words):
    """Which tokens hold bytes of the words: counted over the bytes of the text, not decoded."""
    tokenizer = model(kind).processor.tokenizer
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
    if kind == "bytes":
        sizes = [len(piece) for piece in pieces]
    else:
        sizes = [1 if piece.startswith("<0x") else len(piece.encode().replace("▁".encode(), b" "))
                 for piece in pieces]  # fmt: skip
    start = (
        len(text[: text.lower().index(words.lower())].encode()) + sum(sizes) - len(text.encode())
    )
    stop = start + len(words.encode())
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return tuple(i for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
                 if end - size < stop and start < end)  # fmt: skip


both = pytest.mark.parametrize("kind", ["bytes", "fallback"])


@both
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a café, a cat", "café"),
        ("a café, a cat", "CAFÉ"),
        ("the naïve café stands", "naïve café"),
        ("这是一只猫。", "猫"),
        ("a 猫 and a dog", "猫"),
        ("猫と犬がいる", "犬"),
        ("नमस्ते दुनिया", "दुनिया"),
        ("a small cat", "cat"),
        ("a 😀 cat", "😀"),
    ],
)
def test_rows_of_words_are_those_of_their_bytes(kind, text, words):
    lmm, run, _ = answer(kind, text)
    found = ex.naming_rows(lmm, run, words)
    assert found == by_bytes(kind, text, words)
    assert len(found) > 0


@both
@pytest.mark.parametrize(
    ("text", "words"),
    [("a café", "caf"), ("a café", "fé"), ("cafés", "café"), ("नमस्ते", "नमस्त"), ("box", "ox")],
)
def test_a_part_of_a_word_is_no_word(kind, text, words):
    lmm, run, _ = answer(kind, text)
    assert ex.naming_rows(lmm, run, words) == ()


@both
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a café, a cat.", ["a", "café", "a", "cat"]),
        ("é ñandú ü", ["é", "ñandú", "ü"]),
        ("一只猫。a 犬", ["一只猫", "a", "犬"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("so 😀 big", ["so", "big"]),
    ],
)
def test_words_have_all_of_their_letters_and_rows(kind, text, words):
    lmm, run, _ = answer(kind, text)
    found = ex.answer_words(lmm, run)
    assert [word.text for word in found] == words
    for word in found:
        if text.count(word.text) == 1:
            assert {*by_bytes(kind, text, word.text)} <= {*word.rows}
    decode = lmm.processor.tokenizer.batch_decode
    alone = replace(
        run, words=tuple(tuple(decode([[i] for i in row])) for row in run.ids), text=text
    )
    spoken = ex.spoken_words(alone)
    assert [word.text for word in spoken] == words
    assert [word.rows for word in spoken] == [word.rows for word in found]


@both
def test_an_answer_cut_off_within_a_letter(kind):
    """The last letter lacks a byte; what stands before it keeps its rows, and ends end nothing."""
    lmm, run, n = answer(kind, "a café 猫", end=[0, 0])
    whole = ex.answer_words(lmm, run)
    assert [word.text for word in whole] == ["a", "café", "猫"]
    assert max(whole[-1].rows) == n - 1
    shorter = replace(run, ids=run.ids[:, :-3], layout=run.layout.first(run.ids.shape[1] - 3))
    words = ex.answer_words(lmm, shorter)
    assert [word.text for word in words] == ["a", "café"]
    assert words == whole[:2]
    assert ex.naming_rows(lmm, shorter, "café") == whole[1].rows


@pytest.mark.parametrize("room, encodings", [(2**29, 3), (0, 9)])
def test_a_sweep_encodes_its_cases_once_while_there_is_room(room, encodings, sunk, monkeypatch):
    cases = replace(ex.Cases.scenes(5), batch_size=2, max_new_tokens=2)
    made, encode = [], type(sunk).encode
    counted = lambda *args, **more: made.append(1) or encode(*args, **more)  # noqa: E731
    monkeypatch.setattr(type(sunk), "encode", counted)
    asked = EncodedCases(sunk, cases, room)
    graphs = (None, vi.Knockout("image -> query"), vi.Knockout("image -> generated"))
    told = [ex.answers(sunk, asked, graph) for graph in graphs]
    assert len(made) == encodings
    assert told == [ex.answers(sunk, cases, graph) for graph in graphs]
