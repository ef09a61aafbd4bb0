"""`Readout`: the final norm and the unembedding, which turn residual streams into logits."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import CapabilityError, InputError
from .lmm import LMM


@final
@dataclass(frozen=True, eq=False)
class Readout:
    """The final RMS norm and the unembedding of a model, as plain tensors.

    The logits of a residual vector x are `(x / scale(x)) @ (gain * weight).T + bias`, and after
    that the softcap, if the model has one. A multiplier of all logits (Granite) is part of gain and
    bias.

    **Attributes:**

    - `gain`: the learned gain of the final norm, times what the model multiplies its logits by, in
        fp32.
    - `eps`: the norm's epsilon.
    - `weight`: the unembedding, on the model's device.
    - `bias`: its bias, multiplied likewise, or None.
    - `softcap`: the cap on the logits, or None.
    - `tokenizer`: the model's tokenizer.
    """

    gain: Float[Tensor, " d_model"]
    eps: float
    weight: Float[Tensor, "vocab d_model"]
    bias: Float[Tensor, " vocab"] | None
    softcap: float | None
    tokenizer: Any

    def scale(self, resid: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """What the final norm divides a residual vector by: its root mean square."""
        return (resid.float().square().mean(-1, keepdim=True) + self.eps).sqrt()

    def token(self, token: str | int) -> int:
        """The id of a token, given as its id or as text that is one token.

        **Raises:** `InputError` for text of several tokens or none that the tokenizer knows, or an
        id outside the vocabulary.
        """
        return token_id(self.tokenizer, token, len(self.weight))

    def direction(
        self, token: str | int, against: str | int | None = None
    ) -> Float[Tensor, " d_model"]:
        """The direction of the residual stream that raises a token's logit, in fp32 on the CPU.

        Divided by `scale`, its dot product with a residual vector is the logit, without bias and
        softcap.

        **Arguments:**

        - `against`: a second token; the direction is then that of the logit difference.

        **Raises:** `InputError` for what is not one token.
        """
        found = self.weight[self.token(token)].float()
        if against is not None:
            found = found - self.weight[self.token(against)].float()
        return (found * self.gain).cpu()

    def offset(self, token: str | int, against: str | int | None = None) -> float:
        """The bias of the unembedding on a logit, or on a logit difference."""
        if self.bias is None:
            return 0.0
        less = 0.0 if against is None else float(self.bias[self.token(against)])
        return float(self.bias[self.token(token)]) - less


def token_id(tokenizer: Any, token: str | int, size: int) -> int:
    """The id of a token, given as its id or as text that is one token.

    **Arguments:**

    - `size`: how many tokens the model has logits of.

    **Raises:** `InputError` for text of several tokens or none that the tokenizer knows, or an id
    outside the vocabulary.
    """
    text = isinstance(token, str)
    ids = list(tokenizer.encode(token, add_special_tokens=False)) if text else [token]
    if len(ids) != 1 or not 0 <= ids[0] < size:
        pieces = [tokenizer.decode([i]) for i in ids] if text else ids
        raise InputError(
            f"{token!r} is not one token of this model's {size}: it is {pieces}"
            + _spaced(tokenizer, token)
        )
    if text and ids[0] == tokenizer.unk_token_id and token.strip() != tokenizer.unk_token:
        raise InputError(
            f"{token!r} is no token of this model: its tokenizer reads {tokenizer.unk_token!r}; "
            "take a word that it knows"
        )
    return ids[0]


def _spaced(tokenizer: Any, token: str | int) -> str:
    """A hint for vocabularies in which a word begins with the space before it."""
    if isinstance(token, int) or token.startswith(" "):
        return ""
    one = len(tokenizer.encode(f" {token}", add_special_tokens=False)) == 1
    return f"; {f' {token}'!r}, with the space before it, is one" if one else ""


def readout(lmm: LMM) -> Readout:
    """The final norm and the unembedding of a model.

    ```python
    out = vi.readout(lmm)
    out.token("red"), out.direction("red", against="blue").shape
    ```

    **Raises:** `CapabilityError` if the final norm is not an RMS norm with a gain, the unembedding
    is not linear, the logits are not what they make, or the model was opened without weights.
    """
    hooked = lmm.hooked
    if hooked.weightless:
        raise CapabilityError(
            f"{lmm.name} was opened without weights, and a readout is made of them: open it with "
            "its weights, or use probes.LogitLens and probes.TokenProbability"
        )
    if hooked.unlike_logits:
        raise CapabilityError(hooked.unlike_logits)
    gain, eps = _gain(hooked.module("ln_final.hook_out"), lmm.d_model, hooked.device)
    head = hooked.projection("unembed.hook_out", None, lmm.d_model)
    times = hooked.family.logits_scale
    bias = None if head.bias is None else head.bias.detach() * times
    weight = head.weight.detach()
    return Readout(gain * times, eps, weight, bias, hooked.softcap, lmm.processor.tokenizer)


def _gain(
    norm: Any, width: int, device: torch.device | None = None
) -> tuple[Float[Tensor, " d_model"], float]:
    """Gain and epsilon of a norm, by what it does: families write the gain in their own ways."""
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    with torch.no_grad():
        trial = torch.linspace(-1.0, 2.0, width, device=device)
        ones = norm.forward(torch.ones(1, 1, width, device=device)).float().flatten()
        seen = norm.forward(trial[None, None]).float().flatten()
    gain = ones * (1 + (eps or 0.0)) ** 0.5
    expected = gain * trial / (trial.square().mean() + (eps or 0.0)).sqrt()
    if eps is None or not torch.allclose(seen, expected, rtol=1e-3, atol=1e-4):
        raise CapabilityError(
            f"{type(norm).__name__} is not an RMS norm with a gain, so logits cannot be split into "
            "parts here; probes.LogitLens works with any norm"
        )
    return gain.detach(), eps
