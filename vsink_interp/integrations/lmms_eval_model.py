"""Any model of ours, under any graph, as a model of lmms-eval.

```bash
python -m lmms_eval eval --model vsink --tasks pope --batch_size 16 \\
    --model_args pretrained=llava-hf/llava-1.5-7b-hf,graph=var.json
```

Imported by lmms-eval alone, through the entry point in `lmms_eval.py`.
"""

import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, final

# Optional, and in an environment of its own: nothing of ours imports this module.
from lmms_eval.api.instance import (  # ty: ignore[import-not-found]
    GenerationResult,
    Instance,
    TokenCounts,
)
from lmms_eval.api.model import lmms  # ty: ignore[import-not-found]
from loguru import logger  # ty: ignore[import-not-found]
from tqdm import tqdm

from ..errors import CapabilityError, InputError
from ..evaluation import named_graph
from ..graph import EditGraph
from ..model import LMM
from ..results import Run

Messages: TypeAlias = Sequence[Mapping[str, Any]]
TAKEN: Final = (
    "do_sample", "max_new_tokens", "num_beams", "repetition_penalty", "temperature", "top_k",
    "top_p",
)  # fmt: skip
"""The generation options of a task that go to `LMM.generate`; `until` cuts the answer."""


@final
@dataclass(eq=False)
class _Talk:
    """A conversation of several rounds that goes on: what was answered, and what the task keeps."""

    request: Any
    answers: list[str] = field(default_factory=list)
    info: Any = None


class Vsink(lmms):
    """What both forms of a task share; lmms-eval makes a leaf of it from `--model_args`.

    **Arguments:**

    - `pretrained`: what `LMM.from_pretrained` opens: a Hub id, a folder, or `toy`, `small`,
        `small/aligned`, which come with the package.
    - `graph`: a JSON file that `EditGraph.save` wrote, or the name of a recipe (`var`, `pai`,
        `vcd` ...); without one the model answers as it is.
    - `batch_size`: how many questions are asked at once.
    - `device`, `hf_kwargs`: as `LMM.from_pretrained` takes them: `dtype=bfloat16`,
        `device_map=auto`, `revision=...`

    **Raises:** `NotationError` for an unknown recipe, `InputError` for a batch size that is no
    number or has a maximum, `CapabilityError` where several processes run.
    """

    def __init__(
        self,
        pretrained: str = "toy",
        graph: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        **hf_kwargs: Any,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise CapabilityError(
                "vsink answers in one process; give parts of a task to several with --limit and "
                "--offset, or spread one model over devices with device_map=auto"
            )
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise InputError(f"batch_size is a number of questions; got {batch_size!r}")
        if max_batch_size is not None:
            raise InputError(
                f"max_batch_size={max_batch_size} bounds an automatic batch size, which is refused "
                "here; give batch_size= alone"
            )
        self.batch_size = int(batch_size)
        self.graph = EditGraph() if graph is None else named_graph(str(graph))[1]
        self.lmm = LMM.from_pretrained(pretrained, device=device, **hf_kwargs)
        self.device = self.lmm.hf_model.device
        self._ignored: set[str] = set()
        logger.warning(f"vsink: {pretrained} under {self.graph!r}")

    @abstractmethod
    def opening(self, request: Any) -> Messages:
        """The messages of the first round."""

    @abstractmethod
    def next_round(self, talk: _Talk) -> Messages | None:
        """The messages after the answers so far; None if the task asks no more."""

    @abstractmethod
    def options(self, request: Any) -> Mapping[str, Any]:
        """The generation options of a task."""

    def document(self, request: Any) -> Any:
        """What the task asks about: a row of its data set."""
        doc_id, task, split = request.args[-3:]
        return self.task_dict[task][split][doc_id]

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """One answer to each request, asked in batches of equal options."""
        asked = [(self.opening(one), self.options(one)) for one in requests]
        return self._answers(asked)

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """The answers of every round to each request; a round of all of them is one batch."""
        talks = [_Talk(request) for request in requests]
        pending = [(talk, self.opening(talk.request)) for talk in talks]
        while pending:
            asked = [(messages, self.options(talk.request)) for talk, messages in pending]
            for (talk, _), answer in zip(pending, self._answers(asked), strict=True):
                talk.answers.append(answer.text)
            following = [(talk, self.next_round(talk)) for talk, _ in pending]
            pending = [(talk, messages) for talk, messages in following if messages is not None]
        return [talk.answers for talk in talks]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """How surprising each continuation is, and whether it is the greedy answer.

        The first number is the *negative* log-likelihood, summed over tokens: lmms-eval takes the
        least of a question's choices, as its own models return a loss.
        """
        found: list[GenerationResult] = []
        with tqdm(total=len(requests), desc="vsink") as bar:
            for batch in _chunks(requests, self.batch_size):
                found += self._surprises(batch)
                bar.update(len(batch))
        return found

    def _surprises(self, batch: Sequence[Any]) -> Iterator[GenerationResult]:
        images, prompts, texts = [], [], []
        for request in batch:
            context, target, visuals = request.args[:3]
            doc = self.document(request)
            image, prompt = as_prompt(turn(visuals(doc), context))
            images.append(image)
            prompts.append(prompt)
            # The blank before a continuation belongs to the chat format here.
            texts.append((target if isinstance(target, str) else str(target(doc))).strip())
        encoding = self.lmm.encode(images, prompts).with_answer(texts)
        run = self.lmm.run(encoding, graph=self.graph)
        rows = run.logits[:, list(run.answer_rows)].float().cpu()
        ids, real = run.generated.cpu(), run.answered.cpu()
        said = rows.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        greedy = ((rows.argmax(-1) == ids) | ~real).all(-1).tolist()
        for pair in zip((-said.where(real, 0.0).sum(-1)).tolist(), greedy, strict=True):
            # lmms-eval 0.7.3 makes a text of a bare pair, which its scorer then cannot read.
            yield GenerationResult(pair)

    def _answers(
        self, asked: Sequence[tuple[Messages, Mapping[str, Any]]]
    ) -> list[GenerationResult]:
        """Answers in the order of the questions, from batches of equal options."""
        alike: dict[str, list[int]] = {}
        for place, (_, options) in enumerate(asked):
            alike.setdefault(json.dumps(options, sort_keys=True, default=str), []).append(place)
        found: dict[int, GenerationResult] = {}
        with tqdm(total=len(asked), desc="vsink") as bar:
            for places in alike.values():
                options = asked[places[0]][1]
                for batch in _chunks(places, self.batch_size):
                    said = self._batch([asked[place][0] for place in batch], options)
                    found.update(zip(batch, said, strict=True))
                    bar.update(len(batch))
        return [found[place] for place in range(len(asked))]

    def _batch(
        self, asked: Sequence[Messages], options: Mapping[str, Any]
    ) -> Iterator[GenerationResult]:
        images, prompts = zip(*map(as_prompt, asked), strict=True)
        encoding = self.lmm.encode(list(images), list(prompts))
        run: Run = self.lmm.generate(encoding, graph=self.graph, **self._taken(options))
        until = options.get("until") or ()
        stops = [until] if isinstance(until, str) else until
        for text, new in zip(run.text, run.answered.sum(-1).tolist(), strict=True):
            yield GenerationResult(cut(text, stops), TokenCounts(output_tokens=new))

    def _taken(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that act here; of the others the log tells once."""
        given = {name: value for name, value in options.items() if value is not None}
        other = given.keys() - {*TAKEN, "until"} - self._ignored
        if other:
            self._ignored |= other
            logger.warning(f"vsink: these options of the task do nothing: {', '.join(other)}")
        taken = {name: given[name] for name in TAKEN if name in given}
        if not taken.get("temperature") and not taken.get("do_sample"):
            return {n: taken[n] for n in taken if n not in ("temperature", "top_p", "top_k")}
        return {**taken, "do_sample": True}


@final
class ChatVsink(Vsink):
    """Tasks in the form of messages: what lmms-eval takes by default."""

    is_simple = False

    def options(self, request: Any) -> Mapping[str, Any]:
        """The third argument of a request."""
        return request.args[2]

    def opening(self, request: Any) -> Messages:
        """What the task makes of its document."""
        return request.args[1](self.document(request))

    def next_round(self, talk: _Talk) -> Messages | None:
        """What the task makes of its document and the answers so far."""
        told = {
            "round_idx": len(talk.answers),
            "previous_output": list(talk.answers),
            "previous_round_info": talk.info,
        }
        given = talk.request.args[1](self.document(talk.request), **told)
        if not (isinstance(given, tuple) and len(given) == 4):
            return None  # a task of one round
        messages, ends, _, talk.info = given
        return None if ends else messages


@final
class SimpleVsink(Vsink):
    """Tasks in the older form, `--force_simple`: multiple choice and loglikelihood are of it."""

    is_simple = True

    def options(self, request: Any) -> Mapping[str, Any]:
        """The second argument of a request."""
        return request.args[1]

    def opening(self, request: Any) -> Messages:
        """The images of the document, then the context."""
        return turn(request.args[2](self.document(request)), request.args[0])

    def next_round(self, talk: _Talk) -> Messages | None:
        """What the task's `doc_to_text` makes of its document and the answers so far."""
        ask: Callable[..., Any] = talk.request.args[3]
        given = ask(
            self.document(talk.request),
            previous_output=list(talk.answers),
            round_idx=len(talk.answers),
            previous_round_info=talk.info,
        )
        if not (isinstance(given, tuple) and len(given) == 5):
            return None
        images, text, ends, _, talk.info = given
        return None if ends else turn(images, text)


def turn(images: Sequence[Any] | None, text: str) -> Messages:
    """What a user shows and asks, as one message in lmms-eval's form."""
    shown = [{"type": "image", "url": image} for image in images or ()]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


def as_prompt(messages: Messages) -> tuple[Any, Any]:
    """Messages as `LMM.encode` takes them: images and a prompt.

    One turn of images and a text is a plain prompt, as `vsink eval` asks it, for which a model
    needs no chat template; anything else is a conversation, and its images stay in their place.
    """
    content = messages[0]["content"]
    kinds = [part["type"] for part in content]
    if len(messages) == 1 and kinds == [*["image"] * (len(kinds) - 1), "text"]:
        return [part["url"] for part in content[:-1]] or None, content[-1]["text"]
    talk = [{"role": one["role"], "content": [*map(_part, one["content"])]} for one in messages]
    return None, talk


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "image", "image": part["url"]} if part["type"] == "image" else part


def cut(text: str, stops: Sequence[str]) -> str:
    """An answer up to the first of the texts that end it."""
    for stop in filter(None, stops):
        text = text.split(stop, 1)[0]
    return text


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
