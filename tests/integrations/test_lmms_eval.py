"""Models of ours in lmms-eval itself, offline: `make lmms-eval` runs this in `.venv-lmms-eval`."""

import importlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import vsink_interp as vi
from vsink_interp.evaluation import toy_benchmark as toy

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
TASKS = PROJECT.parent / "benchmarks" / "lmms_eval"
BLIND = vi.EditGraph(vi.Knockout("image -> query generated"))
SCENES = 3


def test_importing_us_does_not_import_lmms_eval():
    code = "import vsink_interp.integrations.lmms_eval, sys; print('lmms_eval' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_entry_point_is_there_and_names_what_exists():
    points = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]["lmms_eval.models"]
    module, _, name = points["vsink"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    lmms_eval = pytest.importorskip("lmms_eval.models")
    for force_simple in (False, True):
        assert lmms_eval.get_model("vsink", force_simple).is_simple is force_simple


@pytest.fixture(scope="module")
def lmm():
    return vi.LMM.toy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The toy tasks with their data, and a graph."""
    pytest.importorskip("lmms_eval")
    folder = tmp_path_factory.mktemp("tasks")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT.parent)}
    command = [sys.executable, TASKS / "write.py", folder, str(SCENES)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    BLIND.save(folder / "cut.json")
    return folder


class Found:
    """What one call of lmms-eval wrote: scores and answers by task."""

    def __init__(self, folder, tasks, *options, arguments="pretrained=toy"):
        out = folder / f"out-{len(list(folder.glob('out-*')))}"
        cache = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
        command = [
            *(sys.executable, "-m", "lmms_eval", "eval", "--model", "vsink", *options),
            *("--model_args", arguments, "--tasks", ",".join(tasks), "--include_path", str(folder)),
            *("--batch_size", "8", "--output_path", str(out), "--log_samples"),
        ]
        given = {"cwd": folder, "env": {**os.environ, **cache}}
        done = subprocess.run(command, capture_output=True, text=True, check=False, **given)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        print(done.stdout[done.stdout.index("vsink (") :])  # noqa: T201 (the log of `make lmms-eval`)
        (scores,) = out.rglob("*results.json")
        self.scores = json.loads(scores.read_text())["results"]
        self.answers = {}
        for task in tasks:
            (path,) = out.rglob(f"*samples_{task}.jsonl")
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            self.answers[task] = [row["filtered_resps"] for row in sorted(rows, key=_place)]


def _place(row):
    return row["doc_id"]


@pytest.fixture(scope="module")
def off(folder):
    return Found(folder, ["vsink_toy_pope", "vsink_toy_rounds"])


@pytest.fixture(scope="module")
def on(folder):
    arguments = f"pretrained=toy,graph={folder / 'cut.json'}"
    return Found(folder, ["vsink_toy_pope", "vsink_toy_rounds"], arguments=arguments)


@pytest.fixture(scope="module")
def simple(folder):
    return Found(folder, ["vsink_toy_choice", "vsink_toy_rounds"], "--force_simple")


QUESTIONS = toy.pope(toy.scenes(SCENES)).questions
PAIRS = toy.mme(toy.scenes(SCENES)).questions


def plainly(lmm, one):
    """The answer of plain transformers to one question, without any of our hooks."""
    inputs = lmm.encode(one.image, one.prompt).inputs
    ids = lmm.hf_model.generate(**inputs, max_new_tokens=2, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :]
    return lmm.processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def accuracy(texts):
    right = [text == one.truth for text, one in zip(texts, QUESTIONS, strict=True)]
    return sum(right) / len(right)


def test_off_is_the_plain_model(lmm, off):
    texts = [plainly(lmm, one) for one in QUESTIONS]
    assert [text.strip() for text in off.answers["vsink_toy_pope"]] == texts
    score = off.scores["vsink_toy_pope"]["pope_accuracy,none"]
    assert score == pytest.approx(accuracy(texts))
    assert score > 0.6


def test_on_is_the_model_under_the_graph_of_the_file(lmm, off, on):
    texts = [
        lmm.generate(one.image, one.prompt, BLIND, max_new_tokens=2).text.strip()
        for one in QUESTIONS
    ]
    assert [text.strip() for text in on.answers["vsink_toy_pope"]] == texts
    score = on.scores["vsink_toy_pope"]["pope_accuracy,none"]
    assert score == pytest.approx(accuracy(texts))
    assert score < off.scores["vsink_toy_pope"]["pope_accuracy,none"]


@pytest.mark.parametrize("arm", ["off", "on", "simple"])
def test_every_round_is_asked(lmm, arm, request):
    """Chat and simple form, without and with the graph: two questions about each image."""
    graph = BLIND if arm == "on" else None
    texts = [
        lmm.generate(one.image, one.prompt, graph, max_new_tokens=2).text.strip() for one in PAIRS
    ]
    found = request.getfixturevalue(arm)
    said = [[text.strip() for text in pair] for pair in found.answers["vsink_toy_rounds"]]
    assert said == [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    right = [text == one.truth for text, one in zip(texts, PAIRS, strict=True)]
    both = [a and b for a, b in zip(right[::2], right[1::2], strict=True)]
    score = found.scores["vsink_toy_rounds"]["both,none"]
    assert score == pytest.approx(sum(both) / len(both))


def test_multiple_choice_goes_by_likelihood(lmm, simple):
    """Of plain transformers: the answer behind the prompt, its tokens' log-probabilities added."""
    surprises, greedy = [], []
    for one in QUESTIONS:
        inputs = dict(lmm.encode(one.image, one.prompt).inputs)
        prompt, row = inputs["input_ids"], []
        for word in ("yes", "no"):
            ids = lmm.processor.tokenizer(word, add_special_tokens=False, return_tensors="pt")
            new = ids["input_ids"]
            inputs["input_ids"] = torch.cat([prompt, new], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            with torch.no_grad():
                logits = lmm.hf_model(**inputs).logits[0, prompt.shape[1] - 1 : -1]
            row.append(-logits.log_softmax(-1).gather(-1, new[0, :, None]).sum().item())
            greedy.append(bool((logits.argmax(-1) == new[0]).all()))
        surprises.append(row)
    said = simple.answers["vsink_toy_choice"]
    assert [[float(x) for x, _ in pair] for pair in said] == [
        pytest.approx(row, abs=1e-4) for row in surprises
    ]
    assert [one == "True" for pair in said for _, one in pair] == greedy
    right = [
        ["yes", "no"][row.index(min(row))] == one.truth
        for row, one in zip(surprises, QUESTIONS, strict=True)
    ]
    assert simple.scores["vsink_toy_choice"]["acc,none"] == pytest.approx(sum(right) / len(right))


def request(messages, options):
    """A request for a conversation, as lmms-eval hands it to a model."""
    from lmms_eval.api.instance import Instance

    arguments = ("", lambda _: messages, options, 0, "task", "test")
    about = {"task": "task", "doc_id": 0, "repeats": 1}
    return Instance("generate_until", arguments, 0, metadata=about)


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("lmms_eval")
    from vsink_interp.integrations.lmms_eval_model import ChatVsink

    model = ChatVsink(batch_size=2)
    model.task_dict = {"task": {"test": [None]}}
    return model


def asking(one):
    content = [{"type": "image", "url": one.image}, {"type": "text", "text": one.prompt}]
    return [{"role": "user", "content": content}]


def test_options_of_a_task_act_or_are_told(model, lmm):
    """Answers come back in order though requests of other options are asked apart."""
    from loguru import logger

    told = []
    sink = logger.add(told.append)
    shown = toy.chair(toy.scenes(3)).questions
    asked = [
        request(asking(shown[0]), {"max_new_tokens": 3}),
        request(asking(shown[1]), {"max_new_tokens": 12, "until": ["with", ""]}),
        request(asking(shown[2]), {"max_new_tokens": 3, "image_aspect_ratio": "original"}),
        request(asking(shown[1]), {"max_new_tokens": 3, "temperature": 0, "top_p": 1.0}),
    ]
    said = [one.text for one in model.generate_until(asked)]
    logger.remove(sink)
    wanted = [
        lmm.generate(one.image, one.prompt, max_new_tokens=n).text
        for one, n in zip([*shown, shown[1]], (3, 12, 3, 3), strict=True)
    ]
    wanted[1] = wanted[1].split("with")[0]
    assert said == wanted
    assert "image_aspect_ratio" in "".join(map(str, told))
    sampled = {"max_new_tokens": 4, "temperature": 5.0, "do_sample": True}
    torch.manual_seed(0)
    drawn = {model.generate_until([request(asking(shown[0]), sampled)])[0].text for _ in range(5)}
    assert len(drawn) > 1


def test_the_model_is_named_as_from_pretrained_names_it(monkeypatch):
    pytest.importorskip("lmms_eval")
    from vsink_interp.integrations.lmms_eval_model import ChatVsink

    assert ChatVsink("toy", dtype="bfloat16").lmm.hf_model.dtype == torch.bfloat16
    asked = []
    monkeypatch.setattr(
        "vsink_interp.small.model.built", lambda form: asked.append(form) or vi.toy.weights_dir
    )
    assert ChatVsink("small/aligned").lmm.name == "small (aligned)"
    assert asked == ["aligned"]
    with pytest.raises(vi.InputError, match="no folder"):
        ChatVsink("./small")


def test_messages_of_several_turns_are_a_conversation():
    pytest.importorskip("lmms_eval")
    from vsink_interp.integrations.lmms_eval_model import as_prompt

    first = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    image = {"type": "image", "url": "here.png"}
    last = {"role": "user", "content": [first["content"][0], image]}
    assert as_prompt([first]) == (None, "hi")
    images, talk = as_prompt([first, last])
    assert images is None
    assert talk[1]["content"][1] == {"type": "image", "image": "here.png"}
    assert isinstance(as_prompt([last])[1], list)  # an image behind the text keeps its place


def test_what_it_cannot_do_is_refused(monkeypatch):
    pytest.importorskip("lmms_eval")
    from vsink_interp.integrations.lmms_eval_model import ChatVsink

    with pytest.raises(vi.NotationError, match="var"):
        ChatVsink(graph="vra")
    with pytest.raises(vi.InputError, match="auto"):
        ChatVsink(batch_size="auto")
    with pytest.raises(vi.InputError, match="max_batch_size=64"):
        ChatVsink(max_batch_size=64)
    with pytest.raises(vi.InputError, match="dtype"):
        ChatVsink(dtype="bfloat61")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(vi.CapabilityError, match="one process"):
        ChatVsink()
