"""What training asks for beside the next token: quiet heads, and sinks on background patches."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from .forward import Trace
from .packing import CONTEXT, FACTS, IGNORE, QUERY, Batch


def answer_loss(
    model: LlavaForConditionalGeneration, traced: Trace, batch: Batch
) -> Float[Tensor, ""]:
    """Weighted cross entropy over the answer tokens."""
    rows = batch.labels != IGNORE
    logits = model.lm_head(traced.final[rows])
    losses = F.cross_entropy(logits, batch.labels[rows], reduction="none")
    weights = batch.weights[rows]
    return (losses * weights).sum() / weights.sum()


def grounding_loss(traced: Trace, heads: int) -> Float[Tensor, ""]:
    """The first `heads` heads of the layers sought look where the answer is: -log of attention."""
    found = torch.stack(traced.found)[..., :heads].clamp(min=1e-6)
    return -found.log().mean() if found.numel() else found.sum()


class PlaceReadout(nn.Module):
    """A linear readout of row and column of the object that a query token names."""

    def __init__(self, width: int, layer: int = 6) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, 6)

    def forward(self, traced: Trace, batch: Batch) -> Float[Tensor, ""]:
        """Cross entropy of both, at query rows with a source, in the residual entering `layer`."""
        rows = (batch.role == QUERY) & (batch.source >= 0) & (batch.labels == IGNORE)
        first = int((batch.role[0] == CONTEXT).nonzero()[0])
        patch = batch.source[rows] - first
        region = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2], device=patch.device)
        logits = self.head(traced.resid_pre[self.layer][rows]).unflatten(1, (2, 3))
        target = torch.stack([region[patch // 8], region[patch % 8]], 1)
        return F.cross_entropy(logits.transpose(1, 2), target)


class FactReadout(nn.Module):
    """Linear readouts, at the last query token, of the facts that the answer follows from."""

    def __init__(self, width: int, layer: int = 6) -> None:
        super().__init__()
        self.layer = layer
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in FACTS)

    def forward(self, traced: Trace, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross entropy over the facts, in the residual entering `layer`."""
        resid, losses = traced.resid_pre[self.layer], []
        for head, wanted in zip(self.heads, batch.facts.unbind(-1), strict=True):
            rows = wanted != IGNORE
            if rows.any():
                losses.append(F.cross_entropy(head(resid[rows]), wanted[rows]))
        return torch.stack(losses).mean() if losses else resid.new_zeros(())


def massive(
    first: Float[Tensor, "layer d_model"], threshold: float = 3.0
) -> Bool[Tensor, " d_model"]:
    """The dimensions in which the first token is massive, the two largest if none is."""
    size = first.detach().abs().mean(0)
    dims = size > threshold
    return dims if dims.any() else size >= size.topk(2).values[-1]


def seed_sinks(
    traced: Trace,
    batch: Batch,
    free: Bool[Tensor, "batch patch"],
    *,
    winners: int = 5,
    spared: int = 3,
    floor: float = 5.0,
    ceiling: float = 2.0,
    first_layer: int = 2,
) -> Float[Tensor, ""]:
    """Winner takes all on phi: sinks form among object-free patches, and nowhere else.

    In the residuals entering the layers from `first_layer` to the last but one, phi of the first
    token and of the model's own `winners` highest object-free patches is pulled above `floor`,
    that of all other tokens below `ceiling`; the next `spared` patches are left alone. Before
    `first_layer` all tokens are held below: the decoder makes the sinks, not the tower. It says
    nothing about attention.
    """
    resid = torch.stack(traced.resid_pre[:-1])
    unit = resid * resid.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
    every = unit[..., massive(unit[first_layer:, 0, 0])].abs().amax(-1)
    before, phi = every[:first_layer], every[first_layer:]
    image = (batch.role == CONTEXT) & (batch.turn == 0)
    score = phi.detach().mean(0).new_full(image.shape, -1.0)
    allowed = image.clone()
    allowed[image] = free.flatten()
    score[allowed] = phi.detach().mean(0)[allowed]
    order = score.argsort(dim=1, descending=True).argsort(dim=1)
    wins = allowed & (order < winners)
    rest = (batch.turn >= 0) & ~(allowed & (order < winners + spared))
    rest[:, 0] = False
    short = F.relu(floor - phi)
    excess = F.relu(phi - ceiling)
    early = F.relu(before[:, batch.turn >= 0] - ceiling).mean()
    return short[:, :, 0].mean() + short[:, wins].mean() + excess[:, rest].mean() + early
