"""What a TransformerLens `ActivationCache` asks of its model, answered from ours."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..engine.linear_map import LinearMap
from ..errors import CapabilityError
from ..graph import find_hook
from ..kernels import softcapped
from ..model import LMM, Readout


@final
class LensModel:
    """A model as a TransformerLens cache sees it: sizes, output weights, norm and unembedding.

    It runs nothing. The gain of the final norm is folded into `W_U`, so `ln_final` only divides by
    the root mean square, as in TransformerLens's compatibility mode. Weights are read from the
    model when they are asked for, and brought to the CPU, where a run's records are.

    **Arguments:**

    - `lmm`: the model.
    - `readout`: its final norm and unembedding.
    """

    def __init__(self, lmm: LMM, readout: Readout) -> None:
        self.readout = readout
        self.cfg = _config(lmm, readout)
        self.blocks = [_layer(lmm, layer) for layer in range(lmm.n_layers)]
        self.ln_final = RMSOnly(readout)
        self.unembed = SimpleNamespace()
        self.adapter = SimpleNamespace(apply_output_logits_transform=self._cap)
        self.tokenizer = readout.tokenizer

    @property
    def W_U(self) -> Float[Tensor, "d_model vocab"]:  # noqa: N802 (TransformerLens's name)
        """The unembedding with the final norm's gain folded in."""
        return (self.readout.weight.float() * self.readout.gain).T.cpu()

    @property
    def b_U(self) -> Float[Tensor, " vocab"]:  # noqa: N802 (TransformerLens's name)
        """The bias of the unembedding."""
        bias = self.readout.bias
        return torch.zeros(self.cfg.d_vocab) if bias is None else bias.float().cpu()

    def to_single_token(self, string: str) -> int:
        """The id of a word that is one token."""
        return self.readout.token(string)

    def tokens_to_residual_directions(self, tokens: str | int | Tensor) -> Tensor:
        """The column of `W_U` of each token, the model's width last."""
        if isinstance(tokens, Tensor) and tokens.numel() > 1:
            rows = self.readout.weight[tokens.to(self.readout.weight.device)].float()
            return (rows * self.readout.gain).cpu()
        one = int(tokens.item()) if isinstance(tokens, Tensor) else tokens
        return self.readout.direction(one)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """The output biases that reach the input of a layer."""
        attention = [self.blocks[i].attn.b_O for i in range(layer + mlp_input)]
        mlp = [self.blocks[i].mlp.b_out for i in range(layer)] if include_mlp_biases else []
        return torch.stack([torch.zeros(self.cfg.d_model), *attention, *mlp]).sum(0)

    def _cap(self, logits: Tensor) -> Tensor:
        return softcapped(logits, self.readout.softcap)


@final
class RMSOnly(nn.Module):
    """Divide by the root mean square; the gain is folded into the unembedding."""

    def __init__(self, readout: Readout) -> None:
        super().__init__()
        self.readout = readout
        self.eval()

    def forward(self, resid: Tensor) -> Tensor:
        """The residual stream in units of its root mean square."""
        return resid / self.readout.scale(resid)


@final
class Output:
    """The linear map through which attention or an MLP writes to the residual stream."""

    def __init__(self, read: Callable[[], LinearMap], d_model: int, n_heads: int) -> None:
        self._read = read
        self._d_model = d_model
        self._n_heads = n_heads

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:  # noqa: N802 (TransformerLens's name)
        """Of attention, split by head."""
        return self._read().by_head(self._n_heads).detach().cpu()

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:  # noqa: N802 (TransformerLens's name)
        """Of an MLP."""
        return self._read().weight.detach().T.cpu()

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:  # noqa: N802 (TransformerLens's name)
        """Its bias; zero where there is none."""
        bias = self._read().bias
        return torch.zeros(self._d_model) if bias is None else bias.detach().float().cpu()

    @property
    def b_out(self) -> Float[Tensor, " d_model"]:
        """The same, under an MLP's name for it."""
        return self.b_O


@final
class UnsplitAttention:
    """Attention without heads, which has no output weights to be split by them.

    **Arguments:**

    - `d_model`: the width of the residual stream.
    - `why`: what is told to whoever asks for them.
    """

    def __init__(self, d_model: int, why: str) -> None:
        self._why = why
        self.b_O = torch.zeros(d_model)

    @property
    def W_O(self) -> Tensor:  # noqa: N802 (TransformerLens's name)
        """Refused.

        **Raises:** `CapabilityError` with the reason.
        """
        raise CapabilityError(self._why)


HEADS, HIDDEN = find_hook("attn.hook_result"), find_hook("mlp.hook_post")


def _layer(lmm: LMM, layer: int) -> Any:
    text, width = lmm.hooked.config, lmm.d_model
    hidden = partial(lmm.hooked.projection, HIDDEN.template, layer, text.intermediate_size)
    mlp = Output(hidden, width, 1)
    if why := lmm.hooked.refusal(HEADS, layer):
        return SimpleNamespace(attn=UnsplitAttention(width, why), mlp=mlp)
    joined = lmm.n_heads * lmm.hooked.d_head
    heads = partial(lmm.hooked.projection, HEADS.template, layer, joined)
    return SimpleNamespace(attn=Output(heads, width, lmm.n_heads), mlp=mlp)


def _config(lmm: LMM, readout: Readout) -> Any:
    text = lmm.hooked.config
    return SimpleNamespace(
        model_name=lmm.name,
        n_layers=lmm.n_layers,
        n_heads=lmm.n_heads,
        n_key_value_heads=lmm.hooked.n_heads["kv_head"],
        d_model=lmm.d_model,
        d_head=lmm.hooked.d_head,
        d_mlp=text.intermediate_size,
        d_vocab=len(readout.weight),
        attn_only=False,
        normalization_type="RMSPre",
        final_rms=True,
        eps=readout.eps,
        device="cpu",
    )
