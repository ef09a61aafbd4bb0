"""The small LMM as a model of transformers: `LlavaForConditionalGeneration`, updates merged.

Built from the two packages and an adapter, once, into a folder of the user's cache; it loads from
there with `from_pretrained` like any published LLaVA.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import uuid4

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ..errors import InputError, unknown
from . import adapters_dir
from .features import LAYERS, MEAN, STD
from .lora import merge
from .packages import PACKAGES, located
from .packing import PATCHES
from .parts import (
    IMAGE,
    IMAGE_SIZE,
    PATCH,
    build_tokenizer,
    language_config,
    language_file,
    language_weights,
    vision_config,
    vision_weights,
)

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ '<|im_start|>' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' if message['role'] == 'assistant' else '\n' }}"
    "{% endfor %}"
)
"""What stands before the image decides whether there are sinks: here it is `<|im_start|>` alone."""
FORMS: Final = ("anchored", "aligned")
_BUILD: Final = 1
"""Raised when a build differs from an earlier one of the same adapter."""


def adapters() -> tuple[str, ...]:
    """The names of the adapters that ship."""
    return tuple(sorted(path.stem for path in adapters_dir.glob("*.safetensors")))


def default_form() -> str:
    """The form that `LMM.small()` opens: the trained one, if it ships."""
    return next(form for form in FORMS if form in adapters())


def adapter_file(form: str) -> Path:
    """The file of an adapter.

    **Raises:** `InputError` listing the adapters.
    """
    if form not in adapters():
        raise InputError(unknown("form of the small LMM", form, adapters()))
    return adapters_dir / f"{form}.safetensors"


def save_adapter(
    path: Path, projector: Mapping[str, Tensor], factors: Mapping[str, Tensor]
) -> None:
    """Write projector and updates in fp16; a frozen LM has no updates."""
    parts = {f"projector.{name}": value for name, value in projector.items()}
    parts |= {f"lora.{name}": value for name, value in factors.items()}
    save_file({name: value.half().contiguous() for name, value in parts.items()}, path)


def part(adapter: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of an adapter whose names begin so, in fp32 and without it."""
    return {
        name.removeprefix(prefix): value.float()
        for name, value in adapter.items()
        if name.startswith(prefix)
    }


def build_processor() -> LlavaProcessor:
    """Tokenizer and image processor in one: an image of any size becomes 112 x 112 pixels."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessorPil(
        size=size, crop_size=size, do_center_crop=False, image_mean=list(MEAN), image_std=list(STD)
    )
    return LlavaProcessor(
        images,
        build_tokenizer(language_file()),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(adapter: Mapping[str, Tensor]) -> LlavaForConditionalGeneration:
    """The whole model in fp32, the updates merged; it decodes greedily.

    **Raises:** `CapabilityError` naming the command that installs what is missing.
    """
    for package in PACKAGES:
        located(package)
    file = language_file()
    text = language_config(file)
    special = {
        name: getattr(text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_id=build_tokenizer(file).get_vocab()[IMAGE],  # ty: ignore[unknown-argument]
        image_seq_length=PATCHES,
        projector_hidden_act="gelu",
        vision_feature_layer=list(LAYERS),
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **special,
    )
    language = merge(language_weights(file), part(adapter, "lora."))
    sources = {
        "model.language_model.": language,
        "model.vision_tower.": vision_weights(),
        "model.multi_modal_projector.": part(adapter, "projector."),
        "lm_head.": {"weight": language["embed_tokens.weight"]},
    }
    weights = {f"{at}{name}": value for at, of in sources.items() for name, value in of.items()}
    model = LlavaForConditionalGeneration(config)
    model.load_state_dict(weights)
    model.generation_config = GenerationConfig(**special, do_sample=False, max_new_tokens=64)
    return model.eval()


def cache_dir() -> Path:
    """Where built models are kept: `$VSINK_CACHE`, else below the user's cache folder."""
    if given := os.environ.get("VSINK_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vsink_interp"


def built(form: str, *, source: Path | None = None) -> Path:
    """The folder of a built model; it is built if it is not there.

    **Arguments:**

    - `form`: the name of an adapter.
    - `source`: another file for it.

    **Raises:** `InputError` listing the adapters; `CapabilityError` naming the command that
    installs what is missing.
    """
    path = source or adapter_file(form)
    digest = hashlib.sha256(path.read_bytes() + str(_BUILD).encode()).hexdigest()[:12]
    folder = cache_dir() / f"small-{form}-{digest}"
    if (folder / "config.json").exists():
        return folder
    made = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    try:
        made.mkdir(parents=True)
        build_model(load_file(path)).save_pretrained(made)
        build_processor().save_pretrained(made)
        for notice in ("NOTICE.md", "LICENSE-APACHE-2.0.txt"):
            if (adapters_dir / notice).exists():
                shutil.copy(adapters_dir / notice, made / notice)
        if not folder.exists():
            made.replace(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder
