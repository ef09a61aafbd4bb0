"""The tests' own net: wrong arguments, results, fields and shapes do not pass."""

import weakref
from dataclasses import dataclass

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import vsink_interp as vi
from tests import tiny
from tests.checked import checked, names_shapes


@checked(typechecker=beartype)
def added(one: Float[Tensor, "a b"], other: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    return one + other


@checked(typechecker=beartype)
def halved(one: Float[Tensor, "a b"], rows: int) -> Float[Tensor, "a b"]:
    return one[:rows]


@checked(typechecker=beartype)
def length(word: str) -> int:
    return len(word) if word else None


@checked(typechecker=beartype)
@dataclass
class Field:
    number: int


def counter(start: list[int]):
    """A function inside another, which is made at every call of it."""

    @checked(typechecker=beartype)
    def count(by: int) -> int:
        return start[0] + by if by else None

    return count


def test_functions_inside_others_are_checked_each_for_itself():
    one, other = counter([1]), counter([10])
    assert (one(1), other(2)) == (2, 12)
    for wrong in (lambda: one("1"), lambda: other(0)):
        with pytest.raises(TypeCheckError):
            wrong()


def test_the_check_of_a_function_inside_another_keeps_nothing_alive():
    start = Field(1)
    gone = weakref.ref(start)
    counter([start.number, start])(1)
    del start
    assert gone() is None


def test_an_axis_is_as_long_in_the_result():
    assert halved(torch.ones(4, 3), 4).shape == (4, 3)
    with pytest.raises(TypeCheckError):
        halved(torch.ones(4, 3), 2)
    assert halved(torch.ones(2, 3), 2).shape == (2, 3), "the next call begins anew"


def test_what_is_right_passes():
    assert added(torch.ones(2, 3), torch.ones(2, 3)).shape == (2, 3)
    assert length("two") == 3 and Field(3).number == 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: added(torch.ones(2, 3), torch.ones(1, 3)),
        lambda: length(2),
        lambda: length(""),
        lambda: Field("3"),
        lambda: tiny.encode().layout.mask("query", sink=torch.zeros(1, 3)),
        lambda: tiny.encode().layout.mask(3),
        lambda: vi.SinkDims((1,), "high"),
        lambda: tiny.lmm().run(3.5, "what ?"),
    ],
)
def test_what_is_wrong_does_not(wrong):
    with pytest.raises(TypeCheckError):
        wrong()


@pytest.mark.parametrize(
    ("hint", "found"),
    [
        (int | None, False), (dict[str, tuple[int, ...]], False), (Tensor, False),
        (Float[Tensor, "a b"], True), (dict[str, Float[Tensor, "a"] | None], True), ("later", True),
    ],
)  # fmt: skip
def test_shapes_are_found_wherever_an_annotation_has_them(hint, found):
    assert names_shapes(hint) is found
