"""Examples in docstrings run on the toy LMM, with `vi`, `ex`, `lmm` and a few more names."""

import inspect
import re
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float

import vsink_interp as vi

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
ROOMS = (vi, vi.edits, vi.probes, vi.experiments, vi.plot)
OBVIOUS = {
    "LearnedSinkMass", "NonSinkRatio", "LogitAttribution", "Projection", "ProbeFunction",
}  # fmt: skip
"""Edits and probes without one: called like their neighbours, or made by others."""


def public():
    """Every public class and function of these rooms, once."""
    for room in ROOMS:
        for name in getattr(room, "__all__", None) or dir(room):
            found = getattr(room, name)
            if inspect.isclass(found) or inspect.isfunction(found):
                yield name, found


def examples(found):
    """The code blocks of a class or function, and of the methods of a class."""
    inside = [value for key, value in vars(found).items() if not key.startswith("_")]
    docs = [found, *(getattr(x, "__func__", x) for x in inside if inspect.isclass(found))]
    texts = [inspect.getdoc(one) or "" for one in docs if callable(one)]
    return [block for text in texts for block in BLOCK.findall(text) if ">>>" not in block]


EXAMPLES = {name: code for name, found in public() if (code := examples(found))}


@pytest.fixture(scope="module")
def known(lmm):
    """What an example may take for granted."""
    scenes = [vi.toy.scene(seed) for seed in (0, 4)]
    mass = vi.probes.SegmentMass()
    return {
        "vi": vi,
        "ex": vi.experiments,
        "plot": vi.plot,
        "lmm": lmm,
        "image": scenes[0].image,
        "other": scenes[1].image,
        "images": [one.image for one in scenes],
        "prompt": "describe the image",
        "prompts": ["describe the image"] * 2,
        "cases": replace(vi.experiments.Cases.scenes(2), max_new_tokens=8),
        "frames": [scenes[0].image] * 4,
        "run": lmm.generate(scenes[0].image, "describe the image", mass, max_new_tokens=4),
        "Float": Float,
        "Tensor": torch.Tensor,
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(EXAMPLES[name]):
        if "lmm.trace(" in block:  # nnsight reads the caller's source, and this one has no file
            continue
        exec(compile(block, f"{name} {number}", "exec"), {**known})


def test_every_edit_and_probe_has_one():
    kinds = (vi.Edit, vi.Probe)
    rooms = (vi.edits, vi.probes)
    made = {
        name
        for room in rooms
        for name in dir(room)
        if inspect.isclass(found := getattr(room, name)) and issubclass(found, kinds)
    }
    assert len(made) > 25
    assert made - {"Edit", "Probe"} - OBVIOUS <= EXAMPLES.keys()
