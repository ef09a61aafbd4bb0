"""The effective weight matrix of a linear module.

Its `weight` attribute need not be that: it may be packed into integers (bitsandbytes, torchao),
lack an adapter's part (LoRA), or be elsewhere until the module runs (accelerate). The matrix of
such a module is computed from its outputs for unit vectors.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import CapabilityError
from .placement import lies_elsewhere

TOLERANCE = 0.05
"""How far, of its length, an answer may lie from the matrix: 8-bit activations are rounded."""


@final
@dataclass(frozen=True, eq=False)
class LinearMap:
    """What a linear module does to vectors: `x @ weight.T + bias`.

    **Attributes:**

    - `weight`, `bias`: as `torch.nn.Linear` has them.
    - `exact`: whether these are what the module computes with; else its answers, rounded as they
        are where activations are quantised.
    """

    weight: Float[Tensor, "d_out d_in"]
    bias: Float[Tensor, " d_out"] | None
    exact: bool = True

    def by_head(self, n_heads: int) -> Float[Tensor, "head d_head d_model"]:
        """The weight of an output projection split by head."""
        return rearrange(self.weight, "m (h d) -> h d m", h=n_heads)


Asked: TypeAlias = dict[nn.Module, LinearMap]
"""Matrices computed in a run, so that each is computed only once."""


def linear_map(module: nn.Module, width: int, like: Tensor) -> LinearMap:
    """The effective matrix of a linear module, however its weight is stored.

    **Arguments:**

    - `width`: of the vectors that it takes.
    - `like`: a tensor of the precision and device in which it is given them.

    **Raises:** `CapabilityError` if its weights are not on this machine, or it is not linear.
    """
    if _is_plain(module):
        plain: Any = module
        return LinearMap(plain.weight, plain.bias)
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    if lies_elsewhere(module):
        raise CapabilityError(
            f"the weights of a {name} are not on this machine, so its output cannot be split into "
            "parts; open the model with its weights"
        )
    with torch.no_grad():
        unit = torch.eye(width, dtype=like.dtype, device=like.device)[None]
        answers, mirrored = module(unit)[0], module(-unit[:, :1])[0]
        # Not the answer to zero, by which a module that scales its input would divide.
        bias = (answers[0] + mirrored[0]) / 2
        found = LinearMap((answers - bias).T, bias if bias.any() else None, exact=False)
        trial = torch.linspace(-1, 1, width, dtype=like.dtype, device=like.device)[None, None]
        seen, expected = module(trial).float(), trial.float() @ found.weight.float().T + bias
    if not (seen - expected).norm() <= TOLERANCE * expected.norm():
        raise CapabilityError(
            f"a {name} is not a linear map, so its output cannot be split into parts"
        )
    return found


def _is_plain(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or module._forward_hooks or module._forward_pre_hooks:
        return False
    if "forward" in vars(module):  # written over, as some packages do
        return False
    weight = module.weight
    return (
        type(weight) is nn.Parameter
        and type(weight.data) is Tensor
        and weight.is_floating_point()
        and not weight.is_meta
    )
