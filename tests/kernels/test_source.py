"""Each kernel runs from its source alone, as a server gets it: torch and math, nothing else."""

import ast
import inspect
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vsink_interp import kernels

KERNELS = sorted(name for name, value in vars(kernels).items() if inspect.isfunction(value))
torch.manual_seed(0)
PATTERN = torch.softmax(torch.randn(2, 4, 3, 6), -1)
MASK = torch.rand(2, 6) < 0.6
SINK = torch.rand(2, 6) < 0.3
EDGES = torch.rand(2, 4, 3, 6) < 0.5
HEADS = torch.tensor([True, False, False, True])
ROWS = torch.tensor([[True, False, True], [True, True, True]])
VALUE = torch.randn(2, 2, 6, 5)
CALLS = {
    "add_mask": (PATTERN, None, torch.arange(3, 6)),
    "add_scores": (PATTERN, EDGES, 2.0),
    "attend": (PATTERN, VALUE),
    "attributed": (PATTERN, torch.randn(2, 4, 6), torch.stack([MASK, SINK], -1)),
    "attention_scores": (torch.randn(2, 4, 3, 5), VALUE, 0.4),
    "calibrate": (PATTERN, torch.rand(2, 4, 6), 0.4, ROWS, ROWS, torch.arange(3, 6)),
    "contrast": (PATTERN.log(), PATTERN, 1.0, 0.3),
    "contribution": (PATTERN, torch.rand(2, 4, 6)),
    "copy_head": (PATTERN, 1, HEADS, ROWS),
    "cut": (PATTERN, EDGES),
    "cut_tokens": (PATTERN, EDGES),
    "diffuse": (VALUE, torch.randn(2, 2, 6, 5), 500),
    "edges_between": (SINK, ROWS, HEADS),
    "group_mass": (PATTERN, torch.stack([MASK, SINK], -1)),
    "head_result": (torch.randn(2, 3, 4, 5), torch.randn(4, 5, 7)),
    "log_total": (PATTERN.log(),),
    "move_mass": (PATTERN, torch.stack([SINK, MASK & ~SINK], 1), 0.5, ROWS),
    "move_neurons": (VALUE[0], [1, 3], 0, 0.5, True, 1),
    "non_sink_ratio": (PATTERN, SINK, MASK),
    "normalised": (torch.randn(2, 6, 8),),
    "output_along": (torch.randn(4, 5, 7), torch.randn(7)),
    "output_gram": (torch.randn(4, 5, 7),),
    "raise_scores": (PATTERN, EDGES, 0.5),
    "random_like": (SINK, MASK, torch.rand(2, 6)),
    "redistribute": (
        PATTERN,
        torch.stack([MASK, SINK, MASK, MASK, SINK], 1).float(),
        torch.rand(2, 1, 5),
        0.4,
        ROWS,
    ),
    "redistribution_offsets": (MASK,),
    "redistribution_terms": (SINK, MASK),
    "register": (PATTERN, PATTERN.log().logsumexp(-1), 0.3),
    "scale_scores": (PATTERN, EDGES, 0.5),
    "sink_value": (torch.randn(2, 6, 8), (1, 5)),
    "softcapped": (VALUE, 3.0),
    "softmax": (PATTERN.log(), None, torch.randn(4)),
    "top_heads": (PATTERN, MASK, 2),
    "visible_edges": (PATTERN.log(), EDGES),
    "value_along": (VALUE, torch.randn(4, 5)),
    "value_norms": (VALUE, torch.rand(4, 5, 5)),
    "with_norm_of": (torch.randn(2, 6, 8), torch.randn(8)),
}
OPTIONS = {name: {"rho": 0.3} for name in ("redistribution_offsets", "redistribution_terms")}


def test_every_kernel_has_a_call_here():
    assert sorted(CALLS) == KERNELS


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_runs_from_its_source_alone(name):
    kernel = inspect.unwrap(getattr(kernels, name))
    alone = {"torch": torch, "math": math, "Tensor": Tensor}
    exec(inspect.getsource(kernel), alone)
    options = OPTIONS.get(name, {})
    got = alone[name](*CALLS[name], **options)
    want = getattr(kernels, name)(*CALLS[name], **options)
    assert (torch.isnan(got) & torch.isnan(want) | (got == want)).all()


@pytest.mark.parametrize(
    "path", sorted(Path(kernels.__file__).parent.glob("*.py")), ids=lambda p: p.name
)
def test_kernels_import_torch_and_math_alone(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= {"torch", "math"}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module == "torch"


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_leaves_its_arguments_alone(name):
    before = [x.clone() if isinstance(x, Tensor) else x for x in CALLS[name]]
    getattr(kernels, name)(*CALLS[name], **OPTIONS.get(name, {}))
    for old, new in zip(before, CALLS[name], strict=True):
        if isinstance(old, Tensor):
            assert torch.equal(old, new)
