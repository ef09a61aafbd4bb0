"""Low-rank updates of the decoder's linear maps (Hu et al., 2022), kept apart until merged."""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

RANK: Final = 16
SCALE: Final = 2.0
FIRST_LAYER: Final = 8
PLACES: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def sizes(config: LlamaConfig) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each linear map of a layer."""
    width, inner = config.hidden_size, config.intermediate_size
    head = config.head_dim or width // config.num_attention_heads
    query, key = config.num_attention_heads * head, (config.num_key_value_heads or 1) * head
    out = (query, key, key, width, inner, inner, width)
    into = (width, width, width, query, width, width, inner)
    return dict(zip(PLACES, zip(out, into, strict=True), strict=True))


class Lora(nn.Module):
    """The two factors of every update: `down` (rank x in) and `up` (out x rank), which starts at 0.

    **Attributes:**

    - `factors`: by place, `layers.N.PLACE.down` and `.up` with `.` written as `/`.
    """

    def __init__(
        self, config: LlamaConfig, first_layer: int = FIRST_LAYER, rank: int = RANK
    ) -> None:
        super().__init__()
        self.factors = nn.ParameterDict()
        for layer in range(first_layer, config.num_hidden_layers):
            for place, (out, into) in sizes(config).items():
                down = torch.empty(rank, into).uniform_(-1, 1) / math.sqrt(into)
                self.factors[_key(layer, place, "down")] = nn.Parameter(down)
                self.factors[_key(layer, place, "up")] = nn.Parameter(torch.zeros(out, rank))

    def pair(self, layer: int, place: str) -> tuple[Tensor, Tensor] | None:
        """Both factors of one update; None in a layer that has none."""
        down = _key(layer, place, "down")
        if down not in self.factors:
            return None
        return self.factors[down], self.factors[_key(layer, place, "up")]

    def below(self, layer: int) -> list[nn.Parameter]:
        """The factors of the layers before one."""
        return [p for name, p in self.factors.items() if int(name.split("/")[1]) < layer]


def _key(layer: int, place: str, part: str) -> str:
    return f"layers.{layer}.{place}.{part}".replace(".", "/")


def saved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors in a state dictionary of `Lora`, as `layers.N.PLACE.down` and `.up`."""
    return {name.removeprefix("factors.").replace("/", "."): p for name, p in state.items()}


def merge(weights: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's weights with the updates added: W + 2 up down.

    **Arguments:**

    - `weights`: by name, as `language_weights` gives them.
    - `factors`: by name, as `saved` gives them; none leaves the weights as they are.
    """
    made = dict(weights)
    for name, down in factors.items():
        if name.endswith(".down"):
            place = name.removesuffix(".down")
            update = factors[f"{place}.up"].float() @ down.float()
            made[f"{place}.weight"] = made[f"{place}.weight"] + SCALE * update
    return made
