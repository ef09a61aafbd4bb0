"""Judges: who says which objects two captions share (Kaduri et al. 2025, figure 3).

Kaduri et al. let GPT-4o list the objects of two captions and match the lists; object F1 follows
from the counts. A judge here is anything that does so: `LexicalJudge` by words alone, offline and
deterministic; `ChatJudge` a language model behind an OpenAI-compatible address; `LocalJudge` one
at hand.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

from ..errors import CapabilityError, InputError, RemoteError, ResultError
from ..storage import RowLog
from .chair import ObjectWords
from .judge_prompts import COMPARE, LISTS, RATE, fill, read_lists, read_rating
from .objects import ObjectScore, content_words, score_objects


@runtime_checkable
class Judge(Protocol):
    """Compares a caption with a reference by the objects that they mention, and rates answers."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What the judgement depends on: who judges, by which prompt, with which seed."""
        ...

    def compare(self, candidate: str, reference: str) -> ObjectScore:
        """The objects that both mention, the candidate alone, and the reference alone."""
        ...

    def rate(self, asked: "Rated", answer: str) -> int:
        """How good an answer to a question is, on MMHal-Bench's scale from 0 to 6.

        6 very informative with good reasoning, 5 very, 4 somewhat, 3 not informative, all without
        a false claim; 2 very, 1 somewhat, 0 not informative, with one.
        """
        ...


@final
@dataclass(frozen=True)
class Rated:
    """A question about an image, and what is known of it.

    ```python
    >>> from vsink_interp.metrics import LexicalJudge, Rated
    >>> LexicalJudge().rate(Rated("What is on the bed?", "A cat sleeps.", ("cat", "bed")), "A cat.")
    4

    ```

    **Attributes:**

    - `question`: as it was asked.
    - `reference`: the answer of a person.
    - `contents`: names of what is in the image.
    """

    question: str
    reference: str
    contents: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class LexicalJudge:
    """Objects are words: those of a vocabulary, or without one all that are no function words.

    ```python
    >>> from vsink_interp.metrics import LexicalJudge, ObjectWords
    >>> LexicalJudge(ObjectWords.coco()).compare("A dog beside a cat.", reference="A cat on a bed.")
    ObjectScore(matched=1, invented=1, missed=1)

    ```

    **Arguments:**

    - `words`: the vocabulary, such as `ObjectWords.coco()`.
    """

    words: ObjectWords | None = None

    @property
    def about(self) -> Mapping[str, Any]:
        """The kind of judge, and how many objects it knows."""
        return {"judge": "lexical", "objects": self.words and len(self.words.words)}

    def compare(self, candidate: str, reference: str) -> ObjectScore:
        """Match the objects of two captions, each counted once."""
        return score_objects(self._objects(candidate), self._objects(reference))

    def rate(self, asked: "Rated", answer: str) -> int:
        """A rating by words, too rough to stand beside one of a language model.

        False is an object of the vocabulary (COCO's without one) that neither contents, reference
        nor question name; informative is the share of the reference's words that the answer has:
        two thirds for very, any for somewhat.
        """
        words = self.words or ObjectWords.coco()
        known = words.objects([asked.question, asked.reference, *asked.contents])
        said, wanted = set(content_words(answer)), set(content_words(asked.reference))
        share = len(said & wanted) / len(wanted) if wanted else 0.0
        informative = 2 if share >= 2 / 3 else 1 if share else 0
        return informative + (0 if words.objects([answer]) - known else 3)

    def _objects(self, text: str) -> Iterable[str]:
        return content_words(text) if self.words is None else self.words.objects([text])


class LanguageJudge:
    """A judge that asks a language model: what `ChatJudge` and `LocalJudge` share.

    Judgements are kept in a file if there is one: the same pair is asked once.
    """

    def __init__(
        self,
        say: Callable[[str, int], str],
        about: Mapping[str, Any],
        *,
        cache: str | Path | None = None,
        attempts: int = 3,
    ) -> None:
        digest = hashlib.sha256((COMPARE + RATE).encode()).hexdigest()[:16]
        self.about: Mapping[str, Any] = {**about, "prompt": digest}
        self._say = say
        self._log = RowLog[Any](cache, self.about)
        self._attempts = attempts

    def compare(self, candidate: str, reference: str) -> ObjectScore:
        """Have the objects of two captions listed and matched.

        **Raises:** `ResultError` if no answer of the model could be read; what it said is in the
        message.
        """
        prompt = fill(COMPARE, {"first": candidate, "second": reference})
        found = self._known([candidate, reference], prompt, read_lists, "the lists " + LISTS)
        return ObjectScore(*(len(found[name]) for name in LISTS.split(", ")))

    def rate(self, asked: Rated, answer: str) -> int:
        """Have an answer rated from 0 to 6.

        **Raises:** as `compare`.
        """
        told = {
            "contents": ", ".join(asked.contents) or "not given",
            "question": asked.question,
            "reference": asked.reference,
            "answer": answer,
        }
        return self._known([*told.values()], fill(RATE, told), read_rating, "a rating from 0 to 6")

    def _known(self, step: list[str], prompt: str, read: Callable[[str], Any], wanted: str) -> Any:
        """What was judged before, or is now; the file is read when something is not known."""
        key = hashlib.sha256(json.dumps(step).encode()).hexdigest()
        if key not in self._log.known:
            with self._log as log:
                if key not in log.known:
                    log.add(key, self._asked(prompt, read, wanted))
        return self._log.known[key]

    def _asked(self, prompt: str, read: Callable[[str], Any], wanted: str) -> Any:
        said = ""
        for attempt in range(self._attempts):
            said = self._say(prompt, attempt)
            if (found := read(said)) is not None:
                return found
        raise ResultError(
            f"the judge's answer is no JSON object with {wanted}, {self._attempts} times; the last "
            f"one was {said[:200]!r}"
        )


@final
class ChatJudge(LanguageJudge):
    """A language model behind an OpenAI-compatible address; needs the extra `judge`.

    Temperature 0; rate limits, server errors and time-outs are tried again by the SDK.

    ```py
    judge = ChatJudge("my-model", "http://localhost:8000/v1", api_key="none", cache="judged.jsonl")
    tasks = vi.evaluation.load_tasks(["mmhal"], "MMHal-Bench", judge=judge)
    ```

    **Arguments:**

    - `model`: as the server names it.
    - `base_url`: the address; OpenAI's own by default, with the key that its SDK finds.
    - `api_key`: for that address; any word does for a server that asks for none.
    - `cache`: a JSONL file that keeps every judgement.
    - `seed`: for servers that draw.
    - `timeout`: seconds for one answer.
    - `attempts`: how often an answer that cannot be read is asked for anew.

    **Raises:** `CapabilityError` without the package openai, `InputError` without a key. When
    comparing: `ResultError` for answers that cannot be read, `RemoteError` for a server that does
    not answer or refuses.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        cache: str | Path | None = None,
        seed: int = 0,
        timeout: float = 60.0,
        attempts: int = 3,
    ) -> None:
        try:
            from openai import OpenAI, OpenAIError
        except ImportError as error:
            raise CapabilityError(
                "a ChatJudge needs the package openai: pip install 'vsink_interp[judge]'"
            ) from error
        given: dict[str, Any] = {
            "base_url": base_url, "api_key": api_key, "timeout": timeout, "max_retries": attempts,
        }  # fmt: skip
        try:  # now, and not when all answers are there to be judged
            OpenAI(**given).close()
        except OpenAIError as error:
            raise InputError(
                "a ChatJudge needs a key: give api_key=, or set OPENAI_API_KEY; any word does for "
                "a server that asks for none"
            ) from error

        def say(prompt: str, attempt: int) -> str:
            try:
                with OpenAI(**given) as client:
                    answer = client.chat.completions.create(
                        model=model,
                        messages=[{"role": "user", "content": prompt}],
                        temperature=0.0,
                        seed=seed + attempt,
                    )
            except OpenAIError as error:
                raise RemoteError(
                    f"the judge {model!r} at {base_url or 'the address of OpenAI'} gave no answer: "
                    f"{error}; see that it runs and knows this model and key, and call again; a "
                    "cache keeps what was judged"
                ) from error
            # What is no JSON at all comes back as text.
            choices = getattr(answer, "choices", None)
            return (choices[0].message.content or "") if choices else str(answer)

        about = {"judge": "chat", "model": model, "seed": seed}
        super().__init__(say, about, cache=cache, attempts=attempts)


@final
class LocalJudge(LanguageJudge):
    """A causal language model of transformers, at hand.

    Greedy, so an answer that cannot be read is not asked for again.

    ```py
    model = AutoModelForCausalLM.from_pretrained(name)
    judge = LocalJudge(model, AutoTokenizer.from_pretrained(name), cache="judged.jsonl")
    judge.compare("A dog beside a cat.", reference="A cat on a bed.").f1
    ```

    **Arguments:**

    - `hf_model`, `tokenizer`: the model, and its tokenizer with a chat template.
    - `cache`: a JSONL file that keeps every judgement.
    - `max_new_tokens`: the longest answer.
    """

    def __init__(
        self,
        hf_model: Any,
        tokenizer: Any,
        *,
        cache: str | Path | None = None,
        max_new_tokens: int = 256,
    ) -> None:
        def say(prompt: str, attempt: int) -> str:
            del attempt
            text = prompt
            if tokenizer.chat_template:
                turns = [{"role": "user", "content": prompt}]
                text = tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=True
                )
            inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
            inputs = inputs.to(hf_model.device)
            ids = hf_model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
            new = ids[0, inputs["input_ids"].shape[1] :]
            return tokenizer.decode(new, skip_special_tokens=True)

        about = {"judge": "local", "model": hf_model.config.name_or_path or "local"}
        super().__init__(say, about, cache=cache, attempts=1)


@final
@dataclass(frozen=True)
class Agreement:
    """How well a judge agrees with what is known.

    **Attributes:**

    - `pairs`: how many were judged.
    - `exact`: the share of them with exactly the true counts, 0 to 1.
    - `f1_error`: the mean absolute difference of F1 from the true one, 0 to 1; an answer that could
        not be read counts as F1 = 0.
    - `unread`: how many of its answers could not be read.
    """

    pairs: int
    exact: float
    f1_error: float
    unread: int


def judge_agreement(
    judge: Judge, pairs: Sequence[tuple[str, str]], truths: Sequence[ObjectScore]
) -> Agreement:
    """How often a judge is right where the truth is known, and by how much its F1 is off.

    ```python
    >>> from vsink_interp.metrics import LexicalJudge, ObjectScore, judge_agreement
    >>> pairs, truths = [("a dog and a cat", "a cat")], [ObjectScore(1, 1, 0)]
    >>> judge_agreement(LexicalJudge(), pairs, truths).exact
    1.0

    ```

    **Arguments:**

    - `pairs`: candidate and reference.
    - `truths`: the true counts of each pair.

    **Raises:** `InputError` without pairs, or for unequal lengths.
    """
    if not pairs or len(pairs) != len(truths):
        raise InputError(f"{len(pairs)} pairs with {len(truths)} true counts; give one each")
    said = [_said(judge, pair) for pair in pairs]
    both = list(zip(said, truths, strict=True))
    errors = [abs((one.f1 if one else 0.0) - truth.f1) for one, truth in both]
    exact = sum(one == truth for one, truth in both) / len(both)
    return Agreement(len(both), exact, sum(errors) / len(both), said.count(None))


def _said(judge: Judge, pair: tuple[str, str]) -> ObjectScore | None:
    try:
        return judge.compare(*pair)
    except ResultError:
        return None
