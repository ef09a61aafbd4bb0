"""A token beside the patches of the vision encoder: put in before its first layer, and out again.

Both are parts of `recipes.registers`; one without the other leaves the language model a wrong
number of image tokens, and raises.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import CapabilityError
from ..graph import Edit, Site, Sizes


class _Register(Edit):
    layers: ClassVar[str] = ":"

    @property
    @override
    def reshapes(self) -> bool:
        return True

    @override
    def fit(self, sizes: Sizes) -> None:
        if sizes.no_register:
            raise CapabilityError(
                f"no token can be added to the patches of this vision encoder: {sizes.no_register}."
                " Move neurons into a token that it has: recipes.registers(neurons, to=0)"
            )


@final
@dataclass(frozen=True)
class AddRegister(_Register):
    """Append a token of zeros to the patches that enter the first layer of the vision encoder."""

    hook: ClassVar[str] = "vision_encoder.blocks.{layer}.hook_resid_pre"
    layers: ClassVar[str] = "0"

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        del site
        return torch.cat([value, torch.zeros_like(value[:, :1])], 1)


@final
@dataclass(frozen=True)
class DropRegister(_Register):
    """Take away the last of the tokens that enter the projector."""

    hook: ClassVar[str] = "vision_projector.hook_in"

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        del site
        return value[:, :-1]
