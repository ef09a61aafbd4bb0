"""How often judges agree with what is known, on captions of toy scenes: into docs/evaluation.md.

    python benchmarks/judges.py --local small --write

Two captions of scenes that share some objects are compared; which, the scenes say. Reworded ones
name a shape by another word ("disc"), which takes a judge that knows what words mean.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from marked import write_table

from vsink_interp.evaluation import toy_benchmark as toy
from vsink_interp.metrics import (
    Judge,
    LexicalJudge,
    LocalJudge,
    ObjectScore,
    judge_agreement,
    score_objects,
)
from vsink_interp.toy.hard_scenes import hard_scene
from vsink_interp.toy.language import SceneObject

OTHERS = {
    "square": "box",
    "circle": "disc",
    "triangle": "wedge",
    "diamond": "rhombus",
    "cross": "plus sign",
}


def caption(things: list[SceneObject], *, reworded: bool) -> str:
    """The toy's own form of caption."""
    names = [f"{one.color} {OTHERS[one.shape] if reworded else one.shape}" for one in things]
    return "A " + ", a ".join(names[:-1]) + f" and a {names[-1]}."


def pairs(count: int, *, reworded: bool) -> Iterator[tuple[tuple[str, str], ObjectScore]]:
    """Captions of a scene's objects, and of some of them with those of another scene."""
    for number in range(count):
        rng = np.random.default_rng(number)
        there, other = (list(hard_scene(2 * number + i).objects) for i in (0, 1))
        known = {one.name for one in there}
        strange = [one for one in other if one.name not in known]
        named = [*there[: int(rng.integers(1, len(there)))], *strange[: int(rng.integers(0, 3))]]
        named = [named[i] for i in rng.permutation(len(named))]
        if len(named) > 1:
            truth = score_objects([one.name for one in named], [one.name for one in there])
            texts = caption(named, reworded=reworded), caption(there, reworded=False)
            yield texts, truth


def small() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct, from its PyPI package.

    **Raises:** `CapabilityError` if it is not installed.
    """
    from transformers import LlamaForCausalLM

    from vsink_interp.small import parts

    file = parts.language_file()
    model = LlamaForCausalLM(parts.language_config(file))
    model.model.load_state_dict(parts.language_weights(file))
    tokenizer = parts.build_tokenizer(file)
    tokenizer.chat_template = file.metadata["tokenizer.chat_template"]
    model.config.name_or_path = "SmolLM2-135M-Instruct (Q4_1)"
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = model.generation_config.eos_token_id
    return model.eval(), tokenizer


def judges(which: str | None) -> dict[str, Judge]:
    found: dict[str, Judge] = {
        "words of the toy": LexicalJudge(toy.WORDS),
        "all words that are no function words": LexicalJudge(),
    }
    if which == "small":
        found["SmolLM2-135M-Instruct, at hand"] = LocalJudge(*small(), max_new_tokens=96)
    elif which:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(which).eval()
        found[which] = LocalJudge(model, AutoTokenizer.from_pretrained(which), max_new_tokens=256)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=24, help="of each kind")
    parser.add_argument("--local", help="'small', or a causal LM of transformers: a folder, an id")
    parser.add_argument("--local-pairs", type=int, default=6, help="of each kind, for --local")
    parser.add_argument("--write", action="store_true", help="into docs/evaluation.md")
    args = parser.parse_args()
    lines = [
        "| judge | captions | pairs | exactly right | mean error of F1 | could not be read |",
        "|---|---|---|---|---|---|",
    ]
    start = time.process_time()
    for name, judge in judges(args.local).items():
        for reworded in (False, True):
            count = args.local_pairs if isinstance(judge, LocalJudge) else args.pairs
            texts, truths = zip(*pairs(count, reworded=reworded), strict=True)
            found = judge_agreement(judge, texts, truths)
            kind = "one reworded" if reworded else "in the same words"
            lines.append(
                f"| {name} | {kind} | {found.pairs} | {found.exact:.2f} | {found.f1_error:.2f} | "
                f"{found.unread} |"
            )
            print(lines[-1], f"{time.process_time() - start:.0f} s", flush=True)
    if args.write:
        write_table("judges", "\n".join(lines))


if __name__ == "__main__":
    main()
