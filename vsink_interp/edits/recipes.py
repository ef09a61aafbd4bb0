"""Published interventions, written with the general edits, and their sources.

Each is one published form, not a reproduction of a result. Settings are those of the released code.
"""

import math
from collections.abc import Mapping, Sequence

from ..errors import NotationError
from ..graph import EditGraph, Layers, TopHeads
from .act import ACT
from .contrast import Contrast
from .knockout import Knockout
from .move_neurons import MoveNeurons
from .scale_heads import ScaleHeads
from .scale_scores import ScaleScores
from .softmax_register import SoftmaxRegister
from .vision_register import AddRegister, DropRegister


def pai(alpha: float = 0.2, layers: Layers = "2:") -> ScaleScores:
    """PAI's attention part (Liu et al. 2024, arXiv 2407.21771): s + alpha |s| on image keys.

    Acts on every row after the image; the released code acts on the last row. PAI's contrast with a
    prompt without image is not included.
    """
    return ScaleScores("image", alpha, by="size", layers=layers)


def clearsight(image: float = 1.15, system: float = 0.95, layers: Layers = "9:15") -> EditGraph:
    """ClearSight / VAF (arXiv 2503.13107): image scores up, system scores down, middle layers."""
    return ScaleScores("image", image, layers=layers) | ScaleScores("system", system, layers=layers)


def adaptvis(factor: float, layers: Layers = ":") -> ScaleScores:
    """AdaptVis (arXiv 2503.01773) for one answer: image scores times 1.2 if confident, else 0.5."""
    return ScaleScores("image", factor, layers=layers)


def spin(keep: int, factor: float = 0.08, layers: Layers = ":") -> ScaleHeads:
    """SPIN (arXiv 2505.16411): in every row the `keep` heads that see the image most, undamped.

    Published settings keep 95 % of the heads (30 of 32) and multiply the output of the others by
    0.05 to 0.08. Acts on the rows of query and generated tokens.
    """
    return ScaleHeads(factor, heads=~TopHeads("image", keep), layers=layers)


def farsight(decay: float = 0.8, layers: Layers = ":") -> SoftmaxRegister:
    """FarSight's registers (arXiv 2505.16652), in the form that they take far from the end.

    There a row also attends to the tokens after it, with scores -decay, -2 decay, ... and no
    value. Of many later tokens that is one column with the score -log(exp(decay) - 1). The
    released code has only as many as follow in the sequence (the last row has none), and slopes
    that differ by head and position; the constant has neither. Its decay is log 256 / log 1024.
    """
    return SoftmaxRegister(-math.log(math.expm1(decay)), rows="all", layers=layers)


def vtw(layer: int) -> Knockout:
    """VTW (arXiv 2405.05803): image tokens are withdrawn from `layer` on.

    No other token attends to them from there, which is what other tokens would compute without
    them; later tokens keep their positions. Nothing is saved: `DropKeys("image", "16:")` beside it
    also shortens the cache.
    """
    return Knockout("image -> ~image", f"{layer}:")


def act(beta: float = 0.4, threshold: float = 0.1, layers: Layers = "2:-1") -> ACT:
    """ACT (Yu et al. 2024, arXiv 2406.15765) with the settings of its scripts, on every head.

    The published method acts only on heads chosen on held-out data; give those to `ACT` per layer.
    """
    return ACT(threshold, beta, layers=layers)


def vcd(alpha: float = 1.0, beta: float = 0.1, step: int = 500, seed: int = 0) -> Contrast:
    """VCD (Leng et al. 2024, arXiv 2311.16922): contrast with a diffused image.

    Equation: softmax[(1 + alpha) logit(y | v, x) - alpha logit(y | v', x)].
    """
    return Contrast("noise", alpha=alpha, beta=beta, step=step, seed=seed)


def icd(
    prefix: str = "You are a confused object detector.", alpha: float = 1.0, beta: float = 0.1
) -> Contrast:
    """ICD (Wang et al. 2024, arXiv 2403.18715): contrast with a disturbed instruction.

    The released code for LLaVA replaces the system prompt by these words; here they are put before
    the whole prompt, system prompt included. The formula on the logits is VCD's.
    """
    return Contrast(prefix=prefix, alpha=alpha, beta=beta)


def registers(neurons: Mapping[int, Sequence[int]], to: int | None = None) -> EditGraph:
    """Test-time registers in the vision encoder (Jiang et al. 2025, arXiv 2506.08010, algorithm 2).

    A token of zeros joins the patches; in every layer named, the highest activation of each
    register neuron goes to it, and all others are zero; it leaves before the projector, so that the
    language model sees as many image tokens as before. The token joins behind CLIP's first norm;
    the released code puts it before, which makes it the bias of that norm (of DINOv2 and SigLIP it
    is the same). What can be said of initial values in the paper: they hardly matter.

    ```python
    found = ex.register_neurons(lmm, [image], norm=10.0)
    lmm.generate(image, "What is this?", vi.edits.recipes.registers(found.neurons)).text
    ```

    **Arguments:**

    - `neurons`: the register neurons by layer of the vision encoder.
    - `to`: a token that the tower has, instead of a new one: 0 is CLIP's CLS. That is the paper's
        way of moving outliers within the image. For towers that take no other token (Qwen2-VL,
        InternVL, Pixtral and others) it is the only one: the patch in question becomes an outlier.

    **Raises:** `NotationError` without a neuron.
    """
    if not neurons:
        raise NotationError("registers of no neuron would move nothing; name layers and neurons")
    moves = EditGraph(
        *(MoveNeurons(tuple(own), -1 if to is None else to, at) for at, own in neurons.items())
    )
    return AddRegister() | moves | DropRegister() if to is None else moves
