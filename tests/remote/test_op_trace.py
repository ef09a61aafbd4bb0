"""What a node does is written down, or refused with its line."""

import ast
from pathlib import Path

import pytest
import torch

import vsink_interp as vi
from vsink_interp.remote import program_player, runtime
from vsink_interp.remote.decode_template import Constants, DiffersError, merge
from vsink_interp.remote.op_trace import record

VALUE = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[True, False, True], [False, True, True]])


def played(fn, value=VALUE):
    """A function of one tensor: recorded on a blank one, then played on the tensor."""
    constants = Constants()
    tape = record("this", lambda recorder: fn(recorder.input("value", value.shape)))
    ops, out, checks = (merge([p], [], constants) for p in (tape.ops, tape.out, tape.checks))
    for noted in (*ops, *checks):
        noted[-1] = 0
    job = {"constants": constants.tensors, "origins": ["here"]}
    inputs = {"value": value.clone()}
    return program_player.play(
        job, {"ops": ops, "out": out, "checks": checks}, inputs, {"length": 0}, 0
    )


def in_place(x):
    x[:, 1:, ..., 0] = 7.0
    x[0].mul_(2)
    return x


FUNCTIONS = {
    "arithmetic": lambda x: -x * 2 + 1 / (x.abs() + 1) ** 2,
    "slices": lambda x: x[..., None, 1:3, ::2],
    "a mask that is known": lambda x: x.transpose(1, 2)[:, :, MASK[0]],
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "several results": lambda x: x.topk(2, -1).values + x.max(-1, keepdim=True)[0],
    "what is made anew": lambda x: x + torch.arange(5, device=x.device, dtype=x.dtype),
    "shapes": lambda x: x.reshape(x.shape[0], -1).view(*x.shape) * x.shape[1] * x.numel(),
    "functional": lambda x: torch.nn.functional.pad(torch.nn.functional.softmax(x, -1), (0, 2)),
    "writing in place": in_place,
    "a constant": lambda x: MASK.float(),  # noqa: ARG005
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_played_is_what_was_written(name):
    want = FUNCTIONS[name](VALUE.clone())
    assert torch.equal(played(FUNCTIONS[name]), want)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * x.mean().item(),
        lambda x: x * x.mean().item() if x.sum() > 0 else x,
        lambda x: x[x > 0],
        lambda x: MASK.float().mul_(x[0, :, 0, 0]),
        lambda x: x * float(x.max()),
    ],
)
def test_what_decides_by_numbers_is_refused_with_its_line(fn):
    with pytest.raises(vi.CapabilityError, match=r"test_op_trace\.py:\d+"):
        played(fn)


def test_a_check_is_made_on_the_server():
    def checked(x):
        if (x > 2.5).any():
            raise ValueError(x.max().item())
        return x + 1

    assert torch.equal(played(checked, VALUE.clamp(max=2)), VALUE.clamp(max=2) + 1)
    with pytest.raises(RuntimeError, match=r"what this line checks does not hold"):
        played(checked, VALUE + 3)


def test_whole_numbers_and_constants_may_grow_with_the_keys():
    constants = Constants()
    long = torch.arange(9)
    found = merge([[3 * n + 1, long[:n], "x", (n, 2)] for n in (4, 5, 9)], [4, 5, 9], constants)
    assert found[0] == {"slope": 3, "start": 1}
    assert found[1] == {"constant": 0, "axis": 0, "length": {"slope": 1, "start": 0}}
    assert found[2:] == ["x", ({"slope": 1, "start": 0}, 2)]
    assert torch.equal(constants.tensors[0], long)


@pytest.mark.parametrize("of", [lambda n: n * n, lambda n: 1 / n, lambda n: torch.full((2,), n)])
def test_what_grows_in_another_way_differs(of):
    with pytest.raises(DiffersError):
        merge([of(n) for n in (4, 5, 9)], [4, 5, 9], Constants())


def test_equal_constants_are_sent_once():
    constants = Constants()
    assert constants.add(MASK) == constants.add(MASK.clone()) != constants.add(~MASK)
    assert len(constants.tensors) == 2


@pytest.mark.parametrize("module", [runtime, program_player])
def test_what_is_sent_imports_torch_alone_and_calls_no_super(module):
    tree = ast.parse(Path(module.__file__).read_text())
    froms = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert froms | names == {"torch", "typing"}  # typing is for annotations, which stay here
    kinds = (ast.ClassDef, ast.Global, ast.Nonlocal, ast.AsyncFunctionDef)
    assert not [node for node in ast.walk(tree) if isinstance(node, kinds)]
    assert "inputs." not in Path(module.__file__).read_text()
