"""The form that a model family fills in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

from ..tokens import ImageSpan

Side = Literal["input", "output", "first output", "residual input", "head results"]


@final
@dataclass(frozen=True)
class Tap:
    """Where a hook point lies in the module tree, and how its value is read and written.

    **Attributes:**

    - `module`: the path below the block, or below the model for hook points outside blocks;
        empty for the block itself.
    - `side`: the module's input, its output, the first entry of a tuple output, an input that is
        also the residual branch (written in place, so that both see it), or the output projection
        as a sum over heads.
    - `heads`: the axis that the last dimension is split by.
    """

    module: str
    side: Side
    heads: Literal["head", "kv_head"] | None = None


LLAMA_BLOCK: Mapping[str, Tap] = {
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
"""A decoder block built like LLaMA's: LLaMA, Vicuna, Mistral, Qwen2."""

CLIP_BLOCK: Mapping[str, Tap] = {
    "hook_resid_pre": Tap("", "input"),
    "hook_attn_out": Tap("self_attn", "first output"),
    "hook_mlp_out": Tap("mlp", "output"),
    "hook_resid_post": Tap("", "output"),
}
"""A vision block built like CLIP's and SigLIP's."""

Spans = Callable[[Any, Any, list[Any]], tuple[ImageSpan, ...]]


@final
@dataclass(frozen=True)
class Family:
    """Where a family of models keeps its parts, and how it turns pictures into tokens.

    **Attributes:**

    - `name`, `model_types`: its name, and the `config.model_type` of its models.
    - `decoder`, `layers`, `norm`, `head`, `embed`: module paths of the language model.
    - `vision_layers`, `projector`: module paths of the vision side.
    - `block`, `vision_block`: the taps of one block.
    - `spans`: `(hf_config, processor, pictures)` to one `ImageSpan` per picture of a prompt.
    - `placeholder`: the word for an image in a prompt.
    - `template`: the prompt where the processor has no chat template, with `{content}` in it.
    - `role_markers`: words that the template puts around content.
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
    placeholder: str = "<image>"
    block: Mapping[str, Tap] = field(default_factory=lambda: LLAMA_BLOCK)
    vision_block: Mapping[str, Tap] = field(default_factory=lambda: CLIP_BLOCK)

    @property
    def layers(self) -> str:
        """The module path of the decoder blocks."""
        return f"{self.decoder}.layers"

    @property
    def outside(self) -> Mapping[str, Tap]:
        """The taps of hook points outside the blocks, with paths from the model."""
        return {
            "hook_embed": Tap(f"{self.decoder}.embed_tokens", "output"),
            "vision_projector.hook_in": Tap(self.projector, "input"),
            "vision_projector.hook_out": Tap(self.projector, "output"),
            "ln_final.hook_out": Tap(f"{self.decoder}.norm", "output"),
            "unembed.hook_out": Tap(self.head, "output"),
        }

    def tap(self, template: str, layer: int | None) -> Tap:
        """The tap of a hook point at a block, with its path from the model.

        **Raises:** `KeyError` if the hook point lies inside the attention computation.
        """
        if template.startswith("vision_encoder.blocks."):
            inner = self.vision_block[template.removeprefix("vision_encoder.blocks.{layer}.")]
            prefix = f"{self.vision_layers}.{layer}"
        elif template.startswith("blocks."):
            inner = self.block[template.removeprefix("blocks.{layer}.")]
            prefix = f"{self.layers}.{layer}"
        else:
            return self.outside[template]
        path = f"{prefix}.{inner.module}" if inner.module else prefix
        return Tap(path, inner.side, inner.heads)
