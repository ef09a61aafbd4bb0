"""Image tokens that a word of the answer depends on: integrated gradients, gradient x attention."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor
from typing_extensions import override

from ..errors import InputError, LayoutError, unknown
from ..graph import Edit, EditGraph, Graphlike, Layers, Site, as_graph, resolve_layers
from ..model import LMM, Encoding, ImageInput, Tick, token_id
from ..model.progress import shown
from ..probes import Gradient, Pattern, Resid
from ..results import Run
from ..results.result import Result
from ..tokens import ImageSpan
from .provenance import with_provenance

BASELINES = ("mean", "zero")
PATTERN = "attn.hook_pattern"


@final
@dataclass(frozen=True, eq=False, repr=False)
class ImageAttribution(Result):
    """How much each token of the first image contributes to the logit of a word.

    **Attributes:**

    - `image`, `span`: the image and its image tokens.
    - `word`, `against`: the word, and the one that its logit is measured against, or None.
    - `method`: `"integrated gradients"` or `"gradient x attention"`.
    - `values`: one number per image token. Of integrated gradients in logits, and negative where a
        token speaks against the word.
    - `reached`: what integrated gradients should add up to: the logit (difference) with the image,
        less that at the baseline. NaN for the other method.
    """

    figure: ClassVar[str] = "image_attribution"
    measured: ClassVar[tuple[str, ...]] = ("values", "reached")

    image: Image
    span: ImageSpan
    word: str
    against: str | None
    method: str
    values: Float[np.ndarray, " token"]
    reached: float = float("nan")

    @property
    def gap(self) -> float:
        """The share of `reached` by which the values miss it; with more `steps` it goes to zero.

        It does not where the model reads the image by other ways than the image tokens that enter
        its first layer, as Qwen3-VL does.
        """
        return abs(float(self.values.sum()) - self.reached) / abs(self.reached)

    def __str__(self) -> str:
        """The word, the method and what the values add up to, in one line."""
        against = "" if self.against is None else f" - {self.against!r}"
        end = "" if np.isnan(self.reached) else f", of {self.reached:.2f} (gap {self.gap:.1%})"
        return (
            f"{self.method} of {self.word!r}{against} over {len(self.values)} image tokens: "
            f"sum {self.values.sum():.2f}{end}"
        )


@final
@dataclass(frozen=True)
class _Toward(Edit):
    """The first image on the way from a baseline to itself, where it enters the first layer."""

    share: float
    baseline: str
    hook: ClassVar[str] = "hook_resid_pre"
    layers: int = field(default=0)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        image = site.queries("image[0]")[..., None]
        base = torch.zeros_like(value)
        if self.baseline == "mean":
            base = (value * image).sum(1, keepdim=True) / image.sum(1, keepdim=True)
        return torch.where(image, base + self.share * (value - base), value)


@with_provenance
def integrated_gradients(
    lmm: LMM,
    image: ImageInput | Sequence[ImageInput] | None,
    prompt: str,
    word: str | int | None = None,
    *,
    against: str | int | None = None,
    after: str = "",
    steps: int = 16,
    baseline: str = "mean",
    graph: Graphlike = None,
    tick: Tick | None = None,
) -> ImageAttribution:
    """Integrated gradients of a word's logit over the image tokens that enter the language model.

    Sundararajan et al. (2017), arXiv 1703.01365: the difference of each token from a baseline,
    times the gradient averaged over the straight way between them (at the middles of `steps`
    parts). The values add up to what the image adds to the logit over the baseline; how nearly is
    in the result, as `gap`. Look at it first: while it is large, the values say little. Where the
    logit jumps on the way, as where sinks form all at once, it takes hundreds of steps to close.
    Of several images the first alone is on the way, and the others are as they are.

    ```python
    found = ex.integrated_gradients(lmm, image, "what color is the circle?", steps=8)
    print(found, found.gap)
    ```

    **Arguments:**

    - `word`: a word of one token, or an id; by default the model's own next token.
    - `against`: another word, whose logit is subtracted.
    - `after`: what the answer says before the word; nothing by default.
    - `steps`: how many forward and backward passes.
    - `baseline`: `"mean"`, an image of which every token is the mean of its tokens, or `"zero"`.
    - `graph`: edits that act in every pass.
    - `tick`: called in the place of a progress bar, after every step.

    **Raises:** `LayoutError` without an image; `InputError` for fewer than one step, another
    baseline, or a word that is not one token.
    """
    if baseline not in BASELINES:
        raise InputError(unknown("baseline", baseline, BASELINES))
    if steps < 1:
        raise InputError(f"steps={steps}: at least one step")
    asked = _Asked.of(lmm, image, prompt, after, word, against, as_graph(graph))
    slope = Gradient("hook_resid_pre", of=asked.of_logit, layers=0, rows="image[0]")
    ends = [asked.run(_Toward(share, baseline)) for share in (0.0, 1.0)]
    entering, tell, total = asked.entering(), shown(tick, "steps"), torch.zeros(())
    for step in range(steps):
        run = asked.run(_Toward((step + 0.5) / steps, baseline) | slope)
        total = total + run[slope].values[0, 0].double()
        tell(step + 1, steps)
    base = torch.zeros(()) if baseline == "zero" else entering.mean(0)
    own = _of_first(asked.encoding, total / steps)
    values = (own * (entering - base)).sum(-1).numpy()
    reached = asked.logit(ends[1]) - asked.logit(ends[0])
    return asked.result("integrated gradients", values, reached)


@with_provenance
def gradient_attention(
    lmm: LMM,
    image: ImageInput | Sequence[ImageInput] | None,
    prompt: str,
    word: str | int | None = None,
    *,
    against: str | int | None = None,
    after: str = "",
    layers: Layers | None = None,
    rollout: bool = True,
    graph: Graphlike = None,
    tick: Tick | None = None,
) -> ImageAttribution:
    """Gradient times attention of a word's logit, over the image tokens.

    Chefer et al. (2021), arXiv 2103.15679: in every layer the pattern times its gradient, what is
    negative left out, mean over heads. With `rollout` the layers are chained, `R = R + A R`, so
    that what the text tokens have taken from the image counts too; without it only what the row
    that predicts the word takes itself, added over layers.

    ```python
    print(ex.gradient_attention(lmm, image, "what color is the circle?"))
    ```

    **Arguments:**

    - `word`, `against`, `after`, `graph`: as in `integrated_gradients`.
    - `layers`: the layers; by default all that have a pattern.
    - `tick`: called in the place of a progress bar, after the pass.

    **Raises:** `LayoutError` without an image; `InputError` for a word that is not one token.
    """
    offered = lmm.layers_with(PATTERN)
    chosen = offered if layers is None else resolve_layers(layers, lmm.n_layers)
    asked = _Asked.of(lmm, image, prompt, after, word, against, as_graph(graph))
    pattern = Pattern("all", layers=chosen)
    slope = Gradient(PATTERN, of=asked.of_logit, layers=chosen)
    run, tell = asked.run(pattern | slope), shown(tick, "passes")
    tell(1, 1)
    product = (run[pattern].values * run[slope].values).double().clamp(min=0).mean(2)[:, 0]
    if rollout:
        relevance = torch.eye(product.shape[-1], dtype=torch.float64)
        for layer in product:
            relevance = relevance + layer @ relevance
        row = relevance[-1]
    else:
        row = product[:, -1].sum(0)
    own = row[asked.encoding.layout.mask("image[0]")[0]]
    return asked.result("gradient x attention", own.numpy())


@final
@dataclass(frozen=True, eq=False)
class _Asked:
    """A prompt, what of the answer is read with it, and the word whose logit is taken."""

    lmm: LMM
    encoding: Encoding
    graph: EditGraph
    ids: tuple[int, ...]

    @classmethod
    def of(
        cls,
        lmm: LMM,
        image: ImageInput | Sequence[ImageInput] | None,
        prompt: str,
        after: str,
        word: str | int | None,
        against: str | int | None,
        graph: EditGraph,
    ) -> "_Asked":
        encoding = lmm.encode(image, prompt)
        if not any(encoding.images):
            raise LayoutError("an attribution over image tokens needs a prompt with an image")
        if after:
            text = f"{encoding.prompts[0].rstrip()} {after}"
            encoding = lmm.encode([list(encoding.images[0])], [text], chat=False)
        size = lmm.hooked.config.vocab_size
        given = [token_id(lmm.tokenizer, w, size) for w in (word, against) if w is not None]
        if word is None:
            given = [int(lmm.run(encoding, graph=graph).logits[0, -1].argmax()), *given]
        return cls(lmm, encoding, graph, tuple(given))

    @property
    def of_logit(self) -> str:
        """What the gradient is of."""
        return f"logit of {' - '.join(map(str, self.ids))} at last"

    def run(self, more: "Edit | EditGraph") -> Run:
        """A run with the edits, behind which others act."""
        return self.lmm.run(self.encoding, graph=self.graph | more)

    def logit(self, run: Run) -> float:
        """The logit of the word, or its difference from the other's."""
        found = [float(run.logits[0, -1, one]) for one in self.ids]
        return found[0] - sum(found[1:])

    def entering(self) -> Float[Tensor, "token d_model"]:
        """The tokens of the first image as they enter the first layer, behind the edits."""
        probe = Resid("all", 0, at="pre")
        record = self.run(EditGraph(probe))[probe]
        return record.values[0, 0][self.encoding.layout.mask("image[0]")[0]].double()

    def result(
        self, method: str, values: Float[np.ndarray, " token"], reached: float = float("nan")
    ) -> ImageAttribution:
        """The result for these values."""
        words = [self.lmm.tokenizer.decode([one]).strip() for one in self.ids]
        image, span = self.encoding.images[0][0], self.encoding.layout.images[0][0]
        against = words[1] if len(words) > 1 else None
        return ImageAttribution(image, span, words[0], against, method, values, reached)


def _of_first(encoding: Encoding, rows: Float[Tensor, "row d_model"]) -> Tensor:
    """Of the rows from the first image's first token to its last, those of its tokens."""
    places = encoding.layout.mask("image[0]")[0].nonzero().flatten()
    return rows[places - places[0]]
