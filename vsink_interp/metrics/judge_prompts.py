"""What judges that are language models are asked, and how their answers are read."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

COMPARE: Final = """\
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

RATE: Final = """\
A model was shown an image and asked a question. Rate its answer. You do not see the image; you \
are told what is in it, and what a person answered, who may not have said all there is to say.

A false claim is one about the image that the contents, the question and the person's answer \
contradict, or that nothing in them supports. General knowledge, sound reasoning and saying "I \
cannot tell" are no false claims.

6: very informative, with good reasoning, no false claim
5: very informative, no false claim
4: somewhat informative, no false claim
3: not informative, no false claim
2: very informative, but with a false claim
1: somewhat informative, but with a false claim
0: not informative, and with a false claim

Answer with one JSON object and nothing else: first why, in one sentence, then the number:
{"why": "...", "rating": ...}

Example
Contents: Bench, Dog, Leash
Question: What is the dog doing?
Person: The dog is lying under the bench.
Answer: The dog is running after a ball.
{"why": "There is no ball, and the dog lies.", "rating": 0}

Example
Contents: Kite, Beach, Person
Question: How many kites are there?
Person: There are two kites.
Answer: Two kites are in the air, which suggests a steady wind.
{"why": "The number is right and the reasoning is sound.", "rating": 6}

Example
Contents: Teapot, Table
Question: What colour is the teapot?
Person: It is blue.
Answer: There is a teapot on a table.
{"why": "True, but the colour is not named.", "rating": 3}

Contents: <contents>
Question: <question>
Person: <reference>
Answer: <answer>
"""
"""Ours; the scale is MMHal-Bench's (Sun et al. 2023, arXiv 2309.14525)."""

LISTS: Final = "both, only_first, only_second"


def fill(prompt: str, told: Mapping[str, str]) -> str:
    """A prompt with its places filled, each once: a text may look like a place itself."""
    return re.sub("<(" + "|".join(told) + ")>", lambda place: told[place[1]], prompt)


def _object(said: str) -> dict[str, Any]:
    """The JSON object of an answer; an empty one if it holds none."""
    match = re.search(r"\{.*\}", said, re.DOTALL)
    try:
        found = json.loads(match[0]) if match else None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_lists(said: str) -> dict[str, list[str]] | None:
    """The three lists of an answer; None if it holds no such object."""
    found, names = _object(said), LISTS.split(", ")
    if set(found) != set(names):
        return None
    lists = list(found.values())
    if not all(isinstance(one, list) and all(isinstance(w, str) for w in one) for one in lists):
        return None
    return {name: sorted({word.strip().lower() for word in found[name]}) for name in names}


def read_rating(said: str) -> int | None:
    """The rating of an answer; None if it holds no whole number from 0 to 6."""
    rating = _object(said).get("rating")
    whole = isinstance(rating, int) and not isinstance(rating, bool) and 0 <= rating <= 6
    return rating if whole else None
