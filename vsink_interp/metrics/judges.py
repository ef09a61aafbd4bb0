"""Judges: who says which objects two captions share (Kaduri et al. 2025, figure 3).

Kaduri et al. let GPT-4o list the objects of two captions and match the lists; object F1 follows
from the counts. A judge here is anything that does so: `LexicalJudge` by words alone, offline and
deterministic; `ChatJudge` a language model behind an OpenAI-compatible address; `LocalJudge` one
at hand.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, final, runtime_checkable

from ..errors import CapabilityError, ResultError
from ..storage import RowLog
from .chair import ObjectWords
from .objects import ObjectScore, content_words, score_objects

PROMPT: Final = """\
You compare two descriptions of one image by the physical objects that they mention.

List objects only: things one could touch. Leave out attributes, numbers, positions, actions, and \
words for scenes such as road, sky, room or kitchen. Count two words as one object if they can \
mean the same thing ("man" and "person", "sofa" and "couch"). Name each object once.

Answer with one JSON object and nothing else:
{"both": [...], "only_first": [...], "only_second": [...]}

Example
First: A woman sits on a red sofa with her dog.
Second: A person and a cat are on a couch in a living room.
{"both": ["person", "couch"], "only_first": ["dog"], "only_second": ["cat"]}

Example
First: Two bikes lean against a wall.
Second: There is a bicycle next to a tree.
{"both": ["bicycle"], "only_first": ["wall"], "only_second": ["tree"]}

Example
First: A plate of pasta.
Second: The image shows a beautiful sunny day.
{"both": [], "only_first": ["plate", "pasta"], "only_second": []}

First: <first>
Second: <second>
"""
"""Ours: the steps are those of Kaduri et al.'s prompt, the wording and examples are not."""

_LISTS: Final = ("both", "only_first", "only_second")


@runtime_checkable
class Judge(Protocol):
    """Compares a caption with a reference by the objects that they mention."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What the judgement depends on: who judges, by which prompt, with which seed."""
        ...

    def compare(self, candidate: str, reference: str) -> ObjectScore:
        """The objects that both mention, the candidate alone, and the reference alone."""
        ...


@final
@dataclass(frozen=True)
class LexicalJudge:
    """Objects are words: those of a vocabulary, or without one all that are no function words.

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
        digest = hashlib.sha256(PROMPT.encode()).hexdigest()[:16]
        self.about: Mapping[str, Any] = {**about, "prompt": digest}
        self._say = say
        self._cache = cache
        self._attempts = attempts

    def compare(self, candidate: str, reference: str) -> ObjectScore:
        """Have the objects of two captions listed and matched.

        **Raises:** `ResultError` if no answer of the model could be read; what it said is in the
        message.
        """
        step = hashlib.sha256(json.dumps([candidate, reference]).encode()).hexdigest()
        with RowLog[dict[str, list[str]]](self._cache, self.about) as log:
            if step not in log.known:
                log.add(step, self._asked(candidate, reference))
            found = log.known[step]
        return ObjectScore(*(len(found[name]) for name in _LISTS))

    def _asked(self, candidate: str, reference: str) -> dict[str, list[str]]:
        told = {"<first>": candidate, "<second>": reference}
        prompt = re.sub("<first>|<second>", lambda place: told[place[0]], PROMPT)
        said = ""
        for attempt in range(self._attempts):
            said = self._say(prompt, attempt)
            if (found := _lists(said)) is not None:
                return found
        raise ResultError(
            f"the judge's answer is no JSON object with the lists {', '.join(_LISTS)}, "
            f"{self._attempts} times; the last one was {said[:200]!r}"
        )


def _lists(said: str) -> dict[str, list[str]] | None:
    """The three lists of an answer; None if it holds no such object."""
    match = re.search(r"\{.*\}", said, re.DOTALL)
    try:
        found = json.loads(match[0]) if match else None
    except ValueError:
        return None
    if not isinstance(found, dict) or set(found) != set(_LISTS):
        return None
    lists = list(found.values())
    if not all(isinstance(one, list) and all(isinstance(w, str) for w in one) for one in lists):
        return None
    return {name: sorted({word.strip().lower() for word in found[name]}) for name in _LISTS}


@final
class ChatJudge(LanguageJudge):
    """A language model behind an OpenAI-compatible address; needs the extra `judge`.

    Temperature 0; rate limits, server errors and time-outs are tried again by the SDK.

    **Arguments:**

    - `model`: as the server names it.
    - `base_url`: the address; OpenAI's own by default, with the key that its SDK finds.
    - `api_key`: for that address.
    - `cache`: a JSONL file that keeps every judgement.
    - `seed`: for servers that draw.
    - `timeout`: seconds for one answer.
    - `attempts`: how often an answer that cannot be read is asked for anew.

    **Raises:** `CapabilityError` without the package openai. When comparing: `ResultError` for
    answers that cannot be read, and openai's own errors for a server that does not answer.
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
            from openai import OpenAI
        except ImportError as error:
            raise CapabilityError(
                "a ChatJudge needs the package openai: pip install 'vsink_interp[judge]'"
            ) from error
        given: dict[str, Any] = {"base_url": base_url, "api_key": api_key, "timeout": timeout}

        def say(prompt: str, attempt: int) -> str:
            with OpenAI(**given, max_retries=attempts) as client:
                answer = client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": prompt}],
                    temperature=0.0,
                    seed=seed + attempt,
                )
            # What is no JSON at all comes back as text.
            choices = getattr(answer, "choices", None)
            return (choices[0].message.content or "") if choices else str(answer)

        about = {"judge": "chat", "model": model, "seed": seed}
        super().__init__(say, about, cache=cache, attempts=attempts)


@final
class LocalJudge(LanguageJudge):
    """A causal language model of transformers, at hand.

    Greedy, so an answer that cannot be read is not asked for again.

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


def judge_agreement(
    judge: Judge, pairs: Sequence[tuple[str, str]], truths: Sequence[ObjectScore]
) -> tuple[float, float]:
    """How often a judge is right where the truth is known, and by how much its F1 is off.

    **Arguments:**

    - `pairs`: candidate and reference.
    - `truths`: the true counts of each pair.

    **Returns:** the share of pairs with exactly the true counts, and the mean absolute difference
    of F1, both 0 to 1.
    """
    said = [judge.compare(*pair) for pair in pairs]
    both = list(zip(said, truths, strict=True))
    exact = sum(one == truth for one, truth in both) / len(both)
    return exact, sum(abs(one.f1 - truth.f1) for one, truth in both) / len(both)
