"""Judges: words alone, a language model behind a real HTTP server with its faults, one at hand."""

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vsink_interp import InputError, RemoteError, ResultError
from vsink_interp.metrics import (
    Agreement,
    ChatJudge,
    LexicalJudge,
    LocalJudge,
    ObjectScore,
    ObjectWords,
    Rated,
    judge_agreement,
)
from vsink_interp.metrics.judges import LanguageJudge
from vsink_interp.storage import row_log

FIRST, SECOND = "A man holds a dog.", "A person beside a cat and a car"
RIGHT = {"both": ["person"], "only_first": ["dog"], "only_second": ["cat", "Car "]}


def test_words_alone():
    judge = LexicalJudge(ObjectWords.coco())
    assert judge.compare(FIRST, SECOND) == ObjectScore(1, 1, 2)
    assert LexicalJudge().compare("red dog", "dog runs") == ObjectScore(1, 1, 1)
    assert judge.about == {"judge": "lexical", "objects": 80}


class ChatServer(ThreadingHTTPServer):
    """An OpenAI-compatible server on loopback that gives prepared answers, one a request."""

    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), Chat)
        self.answers, self.requests = list(answers), []

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()

    def judge(self, **given):
        url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        return ChatJudge("m", url, api_key="none", **given)


class Chat(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Keep quiet."""

    def do_POST(self):
        length = int(self.headers["content-length"])
        self.server.requests.append(json.loads(self.rfile.read(length)))
        answer, status = self.server.answers.pop(0), 200
        if answer == "slow":
            time.sleep(1.5)
        if isinstance(answer, int):
            answer, status = b"{}", answer
        if isinstance(answer, str):
            message = {"role": "assistant", "content": answer}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            told = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
            answer = json.dumps({**told, "choices": [choice]}).encode()
        with suppress(OSError):  # the client may have gone
            self.send_response(status)
            self.send_header(
                "content-type", "application/json" if answer[:1] == b"{" else "text/html"
            )
            self.send_header("content-length", str(len(answer)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(answer)


def test_a_chat_model_is_asked_by_our_prompt_at_temperature_0(tmp_path):
    with ChatServer([f"Here you are: {json.dumps(RIGHT)}"]) as server:
        judge = server.judge(cache=tmp_path / "said.jsonl", seed=5)
        assert judge.compare(FIRST, SECOND) == ObjectScore(1, 1, 2)
        assert judge.compare(FIRST, SECOND) == ObjectScore(1, 1, 2)
    (asked,) = server.requests  # the second judgement came from the file
    assert asked["temperature"] == 0
    assert asked["seed"] == 5
    assert asked["messages"][0]["content"].endswith(f"First: {FIRST}\nSecond: {SECOND}\n")
    assert {"judge", "model", "seed", "prompt"} <= set(judge.about)


def test_the_cache_is_read_once_and_shared(tmp_path, monkeypatch):
    """Of a hundred judgements the file is read once; another judge knows them, and asks nothing."""
    path, answers = tmp_path / "said.jsonl", [json.dumps(RIGHT)] * 100
    sizes, read = [], row_log._rows

    def counted(at, found, first=1):
        sizes.append(len(found))
        return read(at, found, first)

    monkeypatch.setattr(row_log, "_rows", counted)
    judge = LanguageJudge(lambda *_: answers.pop(), {"judge": "here"}, cache=path)
    for number in range(100):
        assert judge.compare(f"{FIRST} {number}", SECOND).matched == 1
    assert sum(sizes) == 0
    again = LanguageJudge(lambda *_: answers.pop(), {"judge": "here"}, cache=path)
    assert [again.compare(f"{FIRST} {n}", SECOND).missed for n in range(100)] == [2] * 100
    assert sum(sizes) == path.stat().st_size


ASKED = Rated("How many dogs are there?", "There are two dogs.", ("Dog", "Leash"))


@pytest.mark.parametrize("rating", [0, 3, 6])
def test_a_rating_is_asked_for_with_all_that_is_known(rating):
    with ChatServer(['{"rating": 9}', "3", f'{{"why": "so", "rating": {rating}}}']) as server:
        judge = server.judge()
        assert [judge.rate(ASKED, "Two <question>.") for _ in range(2)] == [rating] * 2
    assert len(server.requests) == 3
    told = "Contents: Dog, Leash\nQuestion: How many dogs are there?\nPerson: There are two dogs.\n"
    asked = server.requests[0]["messages"][0]["content"]
    assert asked.endswith(f"{told}Answer: Two <question>.\n")


@pytest.mark.parametrize(
    ("answer", "rating"),
    [
        ("two dogs", 5),  # both content words of "two dogs"
        ("some dogs", 4),
        ("I cannot tell", 3),
        ("two dogs and a cat", 2),
        ("dogs and a cat", 1),
        ("a cat", 0),
    ],
)
def test_a_rating_by_words(answer, rating):
    assert LexicalJudge().rate(ASKED, answer) == rating


@pytest.mark.parametrize(
    "faults",
    [[429, 500], ["no JSON here"], ['{"both": ["a"'], ['{"both": []}'], ['{"both": 1}', "[]"]],
    ids=str,
)
def test_faults_are_tried_again(faults):
    with ChatServer([*faults, json.dumps(RIGHT)]) as server:
        assert server.judge().compare(FIRST, SECOND) == ObjectScore(1, 1, 2)
    assert len(server.requests) == len(faults) + 1


def test_a_caption_that_looks_like_a_placeholder_stays_itself():
    with ChatServer([json.dumps(RIGHT)]) as server:
        server.judge().compare("a <second> dog", SECOND)
    content = server.requests[0]["messages"][0]["content"]
    assert content.endswith(f"First: a <second> dog\nSecond: {SECOND}\n")


def test_an_answer_that_takes_too_long_is_tried_again():
    with ChatServer(["slow", json.dumps(RIGHT)]) as server:
        assert server.judge(timeout=0.5).compare(FIRST, SECOND) == ObjectScore(1, 1, 2)


def test_what_cannot_be_read_is_an_error_that_shows_it():
    said = "3 times; the last one was 'I cannot'"
    with ChatServer(["I cannot"] * 3) as server, pytest.raises(ResultError, match=said):
        server.judge().compare(FIRST, SECOND)


def test_a_server_that_refuses_or_is_gone_is_named():
    with ChatServer([401]) as server, pytest.raises(RemoteError, match=r"'m' at .*gave no answer"):
        server.judge().compare(FIRST, SECOND)
    with pytest.raises(RemoteError, match="gave no answer"):
        server.judge(attempts=1).rate(ASKED, "two")


def test_without_a_key_it_is_said_before_the_answers_are_there(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="set OPENAI_API_KEY"):
        ChatJudge("m", "http://127.0.0.1:1/v1")


def test_garbage_instead_of_an_answer_raises():
    garbage = [b"<html>gateway</html>"] * 3
    with ChatServer(garbage) as server, pytest.raises(ResultError, match="gateway"):
        server.judge().compare(FIRST, SECOND)


def test_a_real_local_model_is_read_or_refused():
    """A random Llama says nothing of use: its answer is shown, not scored."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from vsink_interp.families.tiny import tokenizer

    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id,
        max_position_embeddings=4096,
    )  # fmt: skip
    judge = LocalJudge(LlamaForCausalLM(config).eval(), words, max_new_tokens=8)
    with pytest.raises(ResultError, match="1 times; the last one was"):
        judge.compare(FIRST, SECOND)


def test_agreement_with_what_is_known():
    judge = LexicalJudge(ObjectWords.coco())
    truths = [ObjectScore(1, 1, 2), ObjectScore(2, 0, 0)]
    found = judge_agreement(judge, [(FIRST, SECOND), ("a cow", "a cow")], truths)
    assert found == Agreement(2, 0.5, 0.0, 0)
    with pytest.raises(InputError, match="1 pairs with 2"):
        judge_agreement(judge, [(FIRST, SECOND)], truths)


def test_what_cannot_be_read_agrees_with_nothing():
    """One of two answers is no JSON: half are right, and its F1 of 2/5 is missed by 2/5."""
    answers = [json.dumps(RIGHT), "?"]
    judge = LanguageJudge(lambda *_: answers.pop(), {"judge": "here"}, attempts=1)
    found = judge_agreement(judge, [(FIRST, SECOND), ("a", "b")], [ObjectScore(1, 1, 2)] * 2)
    assert (found.pairs, found.exact, found.unread) == (2, 0.5, 1)
    assert found.f1_error == pytest.approx(1 / 5)
