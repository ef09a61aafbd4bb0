"""Image tokens that a word of the answer depends on: integrated gradients, gradient x attention."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor
from typing_extensions import override

from ..errors import InputError, LayoutError, ResultError, unknown
from ..graph import Edit, EditGraph, Graphlike, Layers, Site, as_graph, resolve_layers
from ..model import LMM, Encoding, ImageInput, Tick, token_id
from ..model.progress import shown
from ..probes import Gradient, Pattern, Resid
from ..results import Run
from ..results.result import Result
from ..tokens import ImageSpan
from .provenance import with_provenance

BASELINES = ("mean", "zero")
Baseline: TypeAlias = Literal["mean", "zero"] | ImageInput
FIRST = 9
"""With how many nodes the way begins, if their number is not given."""
GAP, MOST = 0.05, 256
"""The share by which the parts may miss the whole, and the most nodes, if they are not given."""
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
    - `nodes`: where on the way the gradients were taken, 0 at the baseline and 1 at the image.
    - `stopped`: why no more of them were; empty where their number was given.
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
    nodes: Float[np.ndarray, " node"] = field(default_factory=lambda: np.zeros(0))
    stopped: str = ""

    @property
    def gap(self) -> float:
        """The share of `reached` by which the values miss it; with more steps it goes to zero.

        It does not where the model reads the image by other ways than the image tokens that enter
        its first layer, as Qwen3-VL does.
        """
        return abs(float(self.values.sum()) - self.reached) / abs(self.reached)

    def __str__(self) -> str:
        """The word, the method and what the values add up to, in one line."""
        against = "" if self.against is None else f" - {self.against!r}"
        end = ""
        if not np.isnan(self.reached):
            why = f": {self.stopped}" if self.stopped else ""
            end = f", of {self.reached:.2f} (gap {self.gap:.1%} in {len(self.nodes)} steps{why})"
        return (
            f"{self.method} of {self.word!r}{against} over {len(self.values)} image tokens: "
            f"sum {self.values.sum():.2f}{end}"
        )


@final
@dataclass(frozen=True, eq=False)
class _Toward(Edit):
    """The first image on the way from a baseline to itself, where it enters the first layer."""

    share: float
    base: Float[Tensor, "token d_model"] = field(repr=False)
    hook: ClassVar[str] = "hook_resid_pre"
    layers: int = field(default=0)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        image, moved = site.queries("image[0]"), value.clone()
        base = self.base.to(value)
        moved[image] = base + self.share * (value[image] - base)
        return moved


@with_provenance
def integrated_gradients(
    lmm: LMM,
    image: ImageInput | Sequence[ImageInput] | None,
    prompt: str,
    word: str | int | None = None,
    *,
    against: str | int | None = None,
    after: str = "",
    steps: int | str = "auto",
    gap: float | None = None,
    most: int | None = None,
    baseline: Baseline = "mean",
    graph: Graphlike = None,
    tick: Tick | None = None,
) -> ImageAttribution:
    """Integrated gradients of a word's logit over the image tokens that enter the language model.

    Sundararajan et al. (2017), arXiv 1703.01365: the difference of each token from a baseline,
    times the gradient averaged over the straight way between them. The values add up to what the
    image adds to the logit over the baseline; how nearly is in the result, as `gap`. Look at it
    first: while it is large, the values say little.

    The logit jumps on the way where sinks form all at once, and equal steps close the gap slowly.
    By default steps go where they are needed: each pass gives the logit as well as its gradient, so
    every part of the way is known to add up or not (trapezoids), and those that do not are halved.
    A number of steps takes the middles of as many equal parts.

    Of several images the first alone is on the way, and the others are as they are.

    ```python
    found = ex.integrated_gradients(lmm, image, "what color is the circle?", most=24)
    print(found, found.gap)                                       # says which it was, gap or most
    ```

    **Arguments:**

    - `word`: a word of one token, or an id; by default the model's own next token.
    - `against`: another word, whose logit is subtracted.
    - `after`: what the answer says before the word; nothing by default.
    - `steps`: how many forward and backward passes; `"auto"` takes as many as are needed.
    - `gap`: with `"auto"`, the share of the whole by which the parts may miss it together; .05.
    - `most`: with `"auto"`, the most passes, 9 at least; 256.
    - `baseline`: `"mean"`, an image of which every token is the mean of its tokens; `"zero"`; or
        another image of as many tokens, such as a blurred one.
    - `graph`: edits that act in every pass.
    - `tick`: called in the place of a progress bar, after every step.

    **Raises:** `LayoutError` without an image; `InputError` for fewer than one step, `gap` or
    `most` beside a number of steps, another baseline, or a word that is not one token;
    `ResultError` for a logit that is no number.
    """
    _refuse_steps(steps, gap, most)
    asked = _Asked.of(lmm, image, prompt, after, word, against, as_graph(graph))
    way = _Way(asked, asked.entering(), _base(asked, baseline))
    tell = shown(tick, "steps")
    if isinstance(steps, int):
        values, stopped = _equal_parts(way, steps, tell), ""
    else:
        stopped = _refine(way, gap or GAP, most or MOST, tell)
        values = way.trapezoids().sum(0)
    nodes, reached = np.array(sorted(way.found)), way.logit(1.0) - way.logit(0.0)
    found = asked.result("integrated gradients", values, reached)
    return replace(found, nodes=nodes, stopped=stopped)


def _refuse_steps(steps: int | str, gap: float | None, most: int | None) -> None:
    if isinstance(steps, bool) or not (steps == "auto" or isinstance(steps, int)):
        raise InputError(f"steps={steps!r}: a number of steps, or 'auto'")
    if isinstance(steps, int) and steps < 1:
        raise InputError(f"steps={steps}: at least one step")
    if isinstance(steps, int) and (gap is not None or most is not None):
        raise InputError(f"steps={steps}: gap and most end steps='auto'; leave them out")
    if (gap is not None and not gap > 0) or (most is not None and most < FIRST):
        raise InputError(f"gap={gap}, most={most}: a share above 0, and at least {FIRST} passes")


def _base(asked: "_Asked", baseline: Baseline) -> Float[Tensor, "token d_model"]:
    """The tokens from which the way begins.

    **Raises:** `InputError` for an unknown name, or an image of another number of tokens.
    """
    own = asked.entering()
    if isinstance(baseline, str) and baseline in BASELINES:
        return torch.zeros_like(own) if baseline == "zero" else own.mean(0).expand_as(own)
    if isinstance(baseline, str):
        raise InputError(unknown("baseline", baseline, BASELINES) + ", or an image")
    other = asked.showing(baseline).entering()
    if other.shape != own.shape:
        raise InputError(
            f"the baseline is an image of {len(other)} tokens, and the image has {len(own)}: give "
            "one of the same size in pixels"
        )
    return other


@final
@dataclass(frozen=True, eq=False)
class _Way:
    """The straight way from a baseline to the image: at each node, the logit and the products of
    gradient and difference.
    """

    asked: "_Asked"
    image: Float[Tensor, "token d_model"]
    base: Float[Tensor, "token d_model"]
    found: dict[float, tuple[float, Float[np.ndarray, " token"]]] = field(default_factory=dict)

    def go(self, node: float) -> None:
        """Take the gradient at a node."""
        asked = self.asked
        slope = Gradient("hook_resid_pre", of=asked.of_logit, layers=0, rows="image[0]")
        run = asked.run(_Toward(node, self.base) | slope)
        own = _of_first(asked.encoding, run[slope].values[0, 0].double())
        product = (own * (self.image - self.base)).sum(-1).numpy()
        self.found[node] = (asked.logit(run), product)

    def logit(self, node: float) -> float:
        """The logit at a node."""
        if node in self.found:
            return self.found[node][0]
        return self.asked.logit(self.asked.run(_Toward(node, self.base)))

    def trapezoids(self) -> Float[np.ndarray, "part token"]:
        """What each part of the way between two nodes adds to every token."""
        nodes = sorted(self.found)
        slopes = np.stack([self.found[node][1] for node in nodes])
        return np.diff(nodes)[:, None] * (slopes[1:] + slopes[:-1]) / 2

    def misses(self) -> Float[np.ndarray, " part"]:
        """By how much each part misses what the logit does in it."""
        logits = np.array([self.found[node][0] for node in sorted(self.found)])
        with np.errstate(invalid="ignore"):  # infinite logits, which `_refine` refuses
            return np.abs(self.trapezoids().sum(-1) - np.diff(logits))


def _equal_parts(way: _Way, steps: int, tell: Tick) -> Float[np.ndarray, " token"]:
    """What the middles of equal parts add to every token."""
    for step in range(steps):
        way.go((step + 0.5) / steps)
        tell(step + 1, steps)
    return np.stack([slope for _, slope in way.found.values()]).mean(0)


def _refine(way: _Way, gap: float, most: int, tell: Tick) -> str:
    """Halve the parts that miss the logit until all together miss a share of it; why it ended."""
    todo = [step / (FIRST - 1) for step in range(FIRST)]
    while True:
        for node in todo:
            way.go(node)
            tell(len(way.found), most)
        nodes, misses = sorted(way.found), way.misses()
        if not np.isfinite(misses).all():
            raise ResultError("the logit is no number on the way; is it one under these edits?")
        allowed = gap * abs(way.logit(1.0) - way.logit(0.0))
        if misses.sum() <= allowed:
            return f"at most {gap:.1%} was asked for"
        room = most - len(nodes)
        if not room:
            return "the most that were allowed"
        worst = [at for at in np.argsort(-misses)[:room] if misses[at] > allowed / len(misses)]
        todo = [(nodes[at] + nodes[at + 1]) / 2 for at in worst]


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

    def showing(self, image: ImageInput) -> "_Asked":
        """The same of another image in the place of the first."""
        images = [image, *self.encoding.images[0][1:]]
        encoding = self.lmm.encode([images], list(self.encoding.prompts), chat=False)
        return replace(self, encoding=encoding)

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
