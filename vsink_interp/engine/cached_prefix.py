"""What was read before: keys and values that a new question goes on from."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Bool, Float
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class CachedPrefix:
    """The keys and values of tokens read before, for every layer those that it kept.

    **Attributes:**

    - `keys`, `values`: one tensor a layer, in the order of the tokens; keys carry the rotary
        embedding of their original positions.
    - `kept`: which tokens each layer kept.
    - `shift`: what is added to a token's number to give its position, where a model counts a
        image's positions in its own way (mRoPE); None where tokens are counted.
    """

    keys: tuple[Float[Tensor, "1 kv_head _ d_head"], ...]
    values: tuple[Float[Tensor, "1 kv_head _ d_head"], ...]
    kept: Bool[Tensor, "layer token"]
    shift: int | None = None

    @property
    def length(self) -> int:
        """How many tokens were read, those that were not kept included."""
        return self.kept.shape[1]
