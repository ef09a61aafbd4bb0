"""Examples in docstrings run on the toy LMM, with `vi`, `ex`, `lmm` and a few more names.

Those with `>>>` print what they say; ```py blocks are for reading.
"""

import inspect
import re
from dataclasses import replace
from doctest import DocTestParser, DocTestRunner

import pytest
import torch
from jaxtyping import Float

import vsink_interp as vi
from vsink_interp.results.result import Result

BLOCK = re.compile(r"```(python|py)\n(.*?)```", re.DOTALL)
ROOMS = {
    "": vi,
    "edits": vi.edits,
    "probes": vi.probes,
    "experiments": vi.experiments,
    "plot": vi.plot,
    "metrics": vi.metrics,
    "evaluation": vi.evaluation,
    "reproduction": vi.reproduction,
    "viewer": vi.viewer,
}
OBVIOUS = {
    "probes.LearnedSinkMass", "probes.NonSinkRatio", "probes.LogitAttribution",
    "probes.Projection", "Probe", "HookPoint", "metrics.Judge", "evaluation.Question",
    "evaluation.Task",
}  # fmt: skip
"""Without one: called like their neighbours, or a form that a page of the docs is about."""
MADE = {
    "Context", "HeadRanking", "Readout", "SinkReport", "Site", "Verdict", "probes.ProbeFunction",
    "experiments.AnswerWord", "experiments.ContextScore", "plot.TokenView", "metrics.Agreement",
    "metrics.ChairScore", "metrics.MmeAnswer", "metrics.MmeScore", "metrics.ObjectScore",
    "metrics.PairedDifference", "metrics.PopeScore", "metrics.SubtaskScore", "evaluation.Chair",
    "evaluation.CvBench", "evaluation.Evaluation", "evaluation.MmHal", "evaluation.Mme",
    "evaluation.Mmvp", "evaluation.Pope", "evaluation.Row", "evaluation.TaskAnswers",
    "evaluation.Vqa", "reproduction.Entry", "reproduction.Measurements", "reproduction.Outcome",
    "reproduction.Published", "reproduction.Setup", "reproduction.Summary", "viewer.Viewer",
}  # fmt: skip
"""What a function returns or takes that has one; results of experiments are too."""


def public():
    """Every public class and function of these rooms, once, by room and name."""
    seen = set()
    for room, module in ROOMS.items():
        for name in getattr(module, "__all__", None) or dir(module):
            found = getattr(module, name)
            if (inspect.isclass(found) or inspect.isfunction(found)) and found not in seen:
                seen.add(found)
                yield f"{room}.{name}".lstrip("."), found


def examples(found):
    """The code blocks of a class or function, and of the methods of a class, with their kind."""
    inside = [value for key, value in vars(found).items() if not key.startswith("_")]
    docs = [found, *(getattr(x, "__func__", x) for x in inside if inspect.isclass(found))]
    texts = [inspect.getdoc(one) or "" for one in docs if callable(one)]
    return [block for text in texts for block in BLOCK.findall(text)]


PUBLIC = dict(public())
EXAMPLES = {name: blocks for name, found in PUBLIC.items() if (blocks := examples(found))}
RUN = [name for name, blocks in EXAMPLES.items() if "python" in dict(blocks)]


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
        "cases": replace(vi.experiments.Cases.scenes(2), max_new_tokens=4),
        "frames": [scenes[0].image] * 4,
        "mask": scenes[0].masks[0],
        "run": lmm.generate(scenes[0].image, "describe the image", mass, max_new_tokens=4),
        "Float": Float,
        "Tensor": torch.Tensor,
    }


@pytest.mark.parametrize("name", RUN)
def test_an_example_runs(name, known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, (kind, block) in enumerate(EXAMPLES[name]):
        if ">>>" in block:
            told = DocTestParser().get_doctest(block, {"vi": vi}, name, None, 0)
            assert DocTestRunner(verbose=False).run(told).failed == 0
        # nnsight reads the source of a caller's trace, and this one has no file
        elif kind == "python" and "lmm.trace(" not in block:
            exec(compile(block, f"{name} {number}", "exec"), {**known})


def test_examples_for_reading_are_code():
    for name, blocks in EXAMPLES.items():
        for kind, block in blocks:
            assert kind == "python" or compile(block, name, "exec")


def test_everything_whose_call_is_not_obvious_has_one():
    made = (Result, vi.VsinkError)
    results = {n for n, x in PUBLIC.items() if inspect.isclass(x) and issubclass(x, made)}
    without = PUBLIC.keys() - EXAMPLES.keys()
    assert len(EXAMPLES) > 100
    assert without - results == (OBVIOUS | MADE) - EXAMPLES.keys() - results
    assert PUBLIC.keys() >= OBVIOUS | MADE
