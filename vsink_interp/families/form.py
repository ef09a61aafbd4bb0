"""`Family`: the form that a model family fills in; `Tap`: where a hook point is in the modules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, final

from ..graph import ORDER, forward_order
from ..tokens import Box, ImageSpan, Sight, View

Side = Literal["input", "output", "first output", "residual input", "head results"]


@final
@dataclass(frozen=True)
class Tap:
    """The module that holds the value of a hook point, and how to read and write it there.

    **Attributes:**

    - `module`: the path below the layer, or below the model for hook points outside layers;
        empty for the layer itself.
    - `side`: the module's input, its output, the first entry of a tuple output, an input that is
        also the residual branch (written in place, so that both see it), or the output projection
        as a sum over heads.
    - `heads`: the kind of heads, where the value has some.
    - `shape`: how the module holds the value, as einops writes it: `b` batch, `q` query or patch,
        `d` width, and `h` for heads. `"b q (h d)"` by default where there are heads, `"q d"` where
        images are packed into one long row of patches, `"b i t q d"` where the images of a
        sample (`i`) and their tiles (`t`) have axes of their own, `"b i j d"` where rows and
        columns of an image do.
    - `scale`: what the model multiplies the value by, before it adds it to the residual stream or
        returns it as logits; the hook point shows the product.
    """

    module: str
    side: Side
    heads: Literal["head", "kv_head"] | None = None
    shape: str = ""
    scale: float = 1.0

    @property
    def held(self) -> str:
        """The axes of the value in the module."""
        return self.shape or ("b q (h d)" if self.heads else "")

    @property
    def shown(self) -> str:
        """The axes of the value at the hook point."""
        return "b q h d" if self.heads else IMAGE_AXES.get(self.shape, "")


IMAGE_AXES = {"q d": "1 q d", "b i t q d": "(b i) (t q) d", "b i j d": "b (i j) d"}
"""Axes of images in the vision encoder, and at hook points: image patch d."""

LayerTaps: TypeAlias = Mapping[str, Tap]
"""The taps of one layer by hook point, in the order of the forward pass."""

LLAMA_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input"),
    "attn.hook_q": Tap("self_attn.q_proj", "output", heads="head"),
    "attn.hook_k": Tap("self_attn.k_proj", "output", heads="kv_head"),
    "attn.hook_v": Tap("self_attn.v_proj", "output", heads="kv_head"),
    "attn.hook_result": Tap("self_attn.o_proj", "head results", heads="head"),
    "hook_attn_out": Tap("self_attn", "first output"),
    "hook_resid_mid": Tap("post_attention_layernorm", "residual input"),
    "mlp.hook_pre": Tap("mlp.gate_proj", "output"),
    "mlp.hook_post": Tap("mlp.down_proj", "input"),
    "hook_mlp_out": Tap("mlp", "output"),
    "hook_resid_post": Tap("", "output"),
}
"""A decoder layer built like LLaMA's: LLaMA, Vicuna, Mistral, Qwen2."""

QWEN3_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input"),
    "attn.hook_q": Tap("self_attn.q_proj", "output", heads="head"),
    "attn.q_norm.hook_out": Tap("self_attn.q_norm", "output", heads="head", shape="b q h d"),
    "attn.hook_k": Tap("self_attn.k_proj", "output", heads="kv_head"),
    "attn.k_norm.hook_out": Tap("self_attn.k_norm", "output", heads="kv_head", shape="b q h d"),
    **LLAMA_LAYER,
}
"""A decoder layer with norms of queries and keys before the heads are moved forward: Qwen3.
Queries are normed before keys are there, and keys before values."""

GEMMA3_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input"),
    "attn.hook_q": Tap("self_attn.q_proj", "output", heads="head"),
    "attn.hook_k": Tap("self_attn.k_proj", "output", heads="kv_head"),
    "attn.hook_v": Tap("self_attn.v_proj", "output", heads="kv_head"),
    "attn.q_norm.hook_out": Tap("self_attn.q_norm", "output", heads="head", shape="b h q d"),
    "attn.k_norm.hook_out": Tap("self_attn.k_norm", "output", heads="kv_head", shape="b h q d"),
    "attn.hook_result": Tap("self_attn.o_proj", "head results", heads="head"),
    "hook_attn_out": Tap("post_attention_layernorm", "output"),
    "hook_resid_mid": Tap("pre_feedforward_layernorm", "residual input"),
    "mlp.hook_pre": Tap("mlp.gate_proj", "output"),
    "mlp.hook_post": Tap("mlp.down_proj", "input"),
    "hook_mlp_out": Tap("post_feedforward_layernorm", "output"),
    "hook_resid_post": Tap("", "output"),
}
"""A decoder layer with norms of queries and keys, and norms after attention and MLP: Gemma 3.
Queries and keys are normed after values are there."""

GEMMA4_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input"),
    "attn.hook_q": Tap("self_attn.q_norm", "input", heads="head", shape="b q h d"),
    "attn.q_norm.hook_out": Tap("self_attn.q_norm", "output", heads="head", shape="b q h d"),
    "attn.hook_k": Tap("self_attn.k_norm", "input", heads="kv_head", shape="b q h d"),
    "attn.k_norm.hook_out": Tap("self_attn.k_norm", "output", heads="kv_head", shape="b q h d"),
    "attn.hook_v": Tap("self_attn.v_norm", "output", heads="kv_head", shape="b q h d"),
    "attn.hook_result": Tap("self_attn.o_proj", "head results", heads="head"),
    "hook_attn_out": Tap("post_attention_layernorm", "output"),
    "hook_resid_mid": Tap("pre_feedforward_layernorm", "residual input"),
    "mlp.hook_pre": Tap("mlp.gate_proj", "output"),
    "mlp.hook_post": Tap("mlp.down_proj", "input"),
    "hook_resid_post": Tap("", "output"),
}
"""A decoder layer of Gemma 4: norms of queries, keys and values, of heads whose number and width
differ between layers; some layers have no keys of their own, or no projection of values. Values
are those behind their norm, which the pattern weighs.
"""

POST_NORM: LayerTaps = {
    "hook_attn_out": Tap("post_attention_layernorm", "output"),
    "hook_resid_mid": Tap("mlp", "residual input"),
    "hook_mlp_out": Tap("post_feedforward_layernorm", "output"),
}
"""What differs in a layer with norms after attention and MLP alone: OLMo-2, EXAONE 4."""

STREAM_LAYER: LayerTaps = {"hook_resid_pre": Tap("", "input"), "hook_resid_post": Tap("", "output")}
"""A vision layer of which only the residual stream can be read."""

CLIP_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input"),
    "hook_attn_out": Tap("self_attn", "first output"),
    "mlp.hook_post": Tap("mlp.fc2", "input"),
    "hook_mlp_out": Tap("mlp", "output"),
    "hook_resid_post": Tap("", "output"),
}
"""A vision layer built like CLIP's and SigLIP's."""

PACKED_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input", shape="q d"),
    "hook_attn_out": Tap("attn", "output", shape="q d"),
    "mlp.hook_post": Tap("mlp.fc2", "input", shape="q d"),
    "hook_mlp_out": Tap("mlp", "output", shape="q d"),
    "hook_resid_post": Tap("", "output", shape="q d"),
}
"""A vision layer that takes all images as one row of patches: Qwen2-VL and its successors."""

GATED_PACKED_LAYER: LayerTaps = {
    **PACKED_LAYER,
    "mlp.hook_post": Tap("mlp.down_proj", "input", shape="q d"),
}
"""The same with a gated MLP: Qwen2.5-VL and GLM-4.1V."""


@final
@dataclass(frozen=True, eq=False)
class Filmed:
    """Videos as the inputs of a model.

    **Attributes:**

    - `inputs`: keyword arguments of the model.
    - `texts`: for each video, the tokens that take the place of its marker.
    - `spans`: for each video, the image tokens of every step in time.
    - `steps`: for each video, the step that each of its frames belongs to.
    """

    inputs: Mapping[str, Any]
    texts: tuple[str, ...]
    spans: tuple[tuple[ImageSpan, ...], ...]
    steps: tuple[tuple[int, ...], ...]


@final
@dataclass(frozen=True, eq=False)
class VideoForm:
    """How a family shows videos.

    **Attributes:**

    - `marker`, `placeholder`: as in `Family`, of a video.
    - `film`: a function of `(processor, videos)` that returns `Filmed`; a video has `frames`,
        `fps` and `size`, the least and the most pixels of a frame.
    - `typed`: whether the model is told which tokens are a video's, as `mm_token_type_ids`.
    - `suffix`: as in `Family`, behind the last frame of a video.
    """

    marker: str
    placeholder: str
    film: Callable[[Any, Sequence[Any]], Filmed]
    typed: bool = False
    suffix: str = ""


Spans: TypeAlias = Callable[[Any, Any, list[Any], Mapping[str, Any]], tuple[ImageSpan, ...]]
Tiny: TypeAlias = Callable[[], tuple[Any, Any]]


def whole_image(image: Any) -> Box:
    """The whole image, for processors that resize without cropping."""
    return (0.0, 0.0, float(image.width), float(image.height))


def tiled(image: Any, rows: int, columns: int, side: int) -> tuple[View, ...]:
    """An image cut into rows and columns of tiles, in raster order; `side` is a tile's grid."""
    board = View((rows, columns), whole_image(image))
    places = [(row, column) for row in range(rows) for column in range(columns)]
    return tuple(View((side, side), board.patch_box(*place)) for place in places)


@final
@dataclass(frozen=True, eq=False)
class Family:
    """Where the parts of a family's models are, and how images become tokens.

    **Attributes:**

    - `name`, `model_types`: its name, and the `config.model_type` of its models.
    - `decoder`, `head`: module paths of the language model below which `layers`, `norm` and
        `embed_tokens` lie, and of the output projection.
    - `vision_layers`, `projector`: module paths of the vision side.
    - `projected`: the axes of the projector's values, as in `Tap.shape`.
    - `mapped`: those of its output, where they are others: rows and columns of an image.
    - `merged`: which patches the projector makes one image token of, where it makes it of several:
        `"runs"` that follow one another, or `"squares"` of a view in raster order.
    - `layer_taps`, `vision_taps`: the taps of one layer; hook points that are left out are refused.
        By default the decoder's depend on its language model: `decoders.layer_taps_of`.
    - `taps_by_layer`: the taps of every decoder layer, filled in when a model is opened.
    - `windows`: the window of every decoder layer, None for one that sees all; filled in, too.
    - `logits_scale`: what a model multiplies the output of its unembedding by; filled in, too.
    - `refused`: hook points that the family cannot offer, and why.
    - `sight`: what a row sees besides the tokens before it.
    - `spans`: a function of `(hf_config, processor, images, inputs)` that returns one `ImageSpan`
        per image; `inputs` is the processor's output for the whole batch.
    - `projects_late`: whether generation, which encodes images before it embeds the text, leaves
        projecting them to the forward pass.
    - `nested`: whether the processor takes one list of images per prompt.
    - `tiles_by_prompt`: whether pixels come as one row per prompt, the views of all its images in
        turn and empty ones behind them.
    - `framed`: whether pixels of images of different sizes are padded to a common frame, with their
        heights and widths as `image_sizes` beside them.
    - `marker`: the token that the processor replaces by an image.
    - `placeholder`: the text that stands for an image in a prompt, marker included; the marker
        alone by default.
    - `suffix`: the text that the processor writes after the last token of an image.
    - `closing`: the text that it writes after the last image of a prompt.
    - `opening`: the text with which every prompt must begin; the processor would insert it
        otherwise.
    - `template`: the prompt format, with `{content}`, if the processor has no chat template.
    - `role_markers`: markers that the template puts around content.
    - `text_alone`: whether the model takes prompts without an image.
    - `prepends`: whether the processor writes the tokens of a prompt's one image by itself, before
        the prompt and its begin token.
    - `video`: how the family shows videos; None if it does not here.
    - `shows`: what a marker stands for, as chat templates and configurations call it.
    - `tiny`: makes a configuration and a processor of a model small enough for tests.
    - `inferred`: whether the form was inferred from a model of no known family.
    """

    name: str
    model_types: tuple[str, ...]
    decoder: str
    vision_layers: str
    projector: str
    spans: Spans
    template: str
    role_markers: tuple[str, ...]
    head: str = "lm_head"
    projected: str = ""
    mapped: str = ""
    merged: Literal["", "runs", "squares"] = ""
    layer_taps: LayerTaps | None = None
    taps_by_layer: tuple[LayerTaps, ...] = ()
    windows: tuple[int | None, ...] = ()
    logits_scale: float = 1.0
    vision_taps: LayerTaps = field(default_factory=lambda: CLIP_LAYER)
    refused: Mapping[str, str] = field(default_factory=dict)
    sight: Sight = "causal"
    projects_late: bool = False
    nested: bool = False
    tiles_by_prompt: bool = False
    framed: bool = False
    marker: str = "<image>"
    placeholder: str = ""
    suffix: str = ""
    closing: str = ""
    opening: str = ""
    text_alone: bool = True
    prepends: bool = False
    video: VideoForm | None = None
    shows: Literal["image", "video"] = "image"
    tiny: Tiny | None = None
    inferred: bool = False

    @property
    def word(self) -> str:
        """The text that stands for an image in a prompt."""
        return self.placeholder or self.marker

    def filming(self) -> "Family":
        """The form for prompts that show videos."""
        video = self.video
        assert video is not None  # noqa: S101 (the caller looks)
        return replace(
            self,
            shows="video",
            marker=video.marker,
            placeholder=video.placeholder,
            suffix=video.suffix,
        )

    @property
    def layers(self) -> str:
        """The module path of the decoder layers."""
        return f"{self.decoder}.layers"

    @property
    def outside(self) -> Mapping[str, Tap]:
        """The taps of hook points outside the layers, with paths from the model."""
        return {
            "hook_embed": Tap(f"{self.decoder}.embed_tokens", "output"),
            "vision_projector.hook_in": Tap(self.projector, "input", shape=self.projected),
            "vision_projector.hook_out": Tap(
                self.projector, "output", shape=self.mapped or self.projected
            ),
            "ln_final.hook_out": Tap(f"{self.decoder}.norm", "output"),
            "unembed.hook_out": Tap(self.head, "output", scale=self.logits_scale),
        }

    def window(self, layer: int) -> int | None:
        """How many tokens a row of a layer sees back from itself, itself included; None for all."""
        return self.windows[layer] if self.windows else None

    def forward_order(self, template: str, layer: int | None) -> tuple[int, int, int]:
        """As `graph.forward_order`, with the taps of a decoder layer in this family's order."""
        first, at, place = forward_order(template, layer)
        name = template.removeprefix("blocks.{layer}.")
        if not template.startswith("blocks.") or name not in self.taps_by_layer[at]:
            return first, at, place
        # They change places among themselves; what is computed inside attention keeps its own.
        names = list(self.taps_by_layer[at])
        places = sorted(ORDER[f"blocks.{{layer}}.{tap}"] for tap in names)
        return first, at, places[names.index(name)]

    def tap(self, template: str, layer: int | None) -> Tap:
        """The tap of a hook point at a layer, with its path from the model.

        **Raises:** `KeyError` if the hook point lies inside the attention computation, or the
        family does not have it.
        """
        if template.startswith("vision_encoder.blocks."):
            inner = self.vision_taps[template.removeprefix("vision_encoder.blocks.{layer}.")]
            prefix = f"{self.vision_layers}.{layer}"
        elif template.startswith("blocks."):
            inner = self.taps_by_layer[layer or 0][template.removeprefix("blocks.{layer}.")]
            prefix = f"{self.layers}.{layer}"
        else:
            return self.outside[template]
        path = f"{prefix}.{inner.module}" if inner.module else prefix
        return replace(inner, module=path)
