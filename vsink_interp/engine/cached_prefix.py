"""`CachedPrefix`: keys and values of a prompt read earlier, from which a new question continues."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import final

from jaxtyping import Bool, Float
from torch import Tensor
from transformers.generation import GenerationMixin

CACHE_ARGUMENT = (
    "cache"
    if "cache" in signature(GenerationMixin.prepare_inputs_for_generation).parameters
    else "past_key_values"
)
"""What transformers calls the cache that it is given and returns; from 5.24 on, `cache`."""


@final
@dataclass(frozen=True, eq=False)
class CachedPrefix:
    """The cached keys and values of tokens read earlier: in each layer, those that it kept.

    **Attributes:**

    - `keys`, `values`: one tensor a layer, in the order of the tokens; keys carry the rotary
        embedding of their original positions.
    - `kept`: which tokens each layer kept.
    - `shift`: what is added to a token's index to give its position, for models that count
        positions of images in their own way (mRoPE); None for all others.
    - `inputs`: what the prompt was read from, beside its ids: a server reads it again.

    `keys` and `values` are empty if a server read the prompt: it keeps no cache.
    """

    keys: tuple[Float[Tensor, "1 kv_head _ d_head"], ...]
    values: tuple[Float[Tensor, "1 kv_head _ d_head"], ...]
    kept: Bool[Tensor, "layer token"]
    shift: int | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """The number of tokens read, including those that were not kept."""
        return self.kept.shape[1]
