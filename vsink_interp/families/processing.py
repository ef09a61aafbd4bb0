"""Processors, also where torchvision is not installed.

Many processors hold a video processor, which needs torchvision, and so refuse to load without it.
Images and text do not: here the official class is given its image processor and tokenizer alone.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, final

from ..errors import CapabilityError

Expand: TypeAlias = Callable[[Mapping[str, Any], int], str]


def without_video(official: Any) -> Any:
    """A processor class as it is, but for its video processor: images and text only.

    Everything that turns images into placeholders is the official class's own code.
    """

    def parts(cls: Any) -> list[str]:
        del cls
        return ["image_processor", "tokenizer"]

    composed = {"get_attributes": classmethod(parts), "__module__": official.__module__}
    return type(official.__name__, (official,), composed)


@final
class Composed:
    """A processor made of an image processor and a tokenizer.

    **Arguments:**

    - `expand`: `(inputs, number)` to the text of image `number`, where `inputs` is what the image
        processor returned.
    - `marker`: the token that it replaces.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, expand: Expand, marker: str) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.expand = expand
        self.marker = marker
        self.chat_template: str | None = getattr(tokenizer, "chat_template", None)

    def __call__(self, text: list[str], images: Any = None, **text_kwargs: Any) -> Any:
        """Prompts with their images put in, as the official processor returns them."""
        from transformers import BatchFeature

        pixels = self.image_processor(images, return_tensors="pt") if images else {}
        count = iter(range(sum(prompt.count(self.marker) for prompt in text)))
        expanded = [
            re.sub(re.escape(self.marker), lambda _: self.expand(pixels, next(count)), prompt)
            for prompt in text
        ]
        return BatchFeature({**self.tokenizer(expanded, **text_kwargs), **pixels})

    def apply_chat_template(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        """The prompt in the model's chat format."""
        return self.tokenizer.apply_chat_template(messages, **kwargs)


def load_processor(repo_or_dir: str | Path, **shared: Any) -> Any:
    """The processor of a model, composed of image processor and tokenizer where it must be.

    **Raises:** `CapabilityError` naming the extra to install, if it needs torchvision.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(repo_or_dir, **shared)
    except (ImportError, OSError) as error:
        # A folder saved where torchvision is missing has no file for the video processor.
        if isinstance(error, OSError) and "video processor" not in str(error):
            raise
        try:
            return without_video(_official(repo_or_dir, **shared)).from_pretrained(
                repo_or_dir, **shared
            )
        except (ImportError, OSError, AttributeError, KeyError, TypeError, ValueError):
            raise CapabilityError(
                f"the processor of {str(repo_or_dir)!r} needs a package that is not installed: "
                f"{str(error).strip().splitlines()[0]} pip install 'vsink-interp[vision]'"
            ) from error


def _official(repo_or_dir: str | Path, **shared: Any) -> Any:
    import transformers
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    kind = AutoConfig.from_pretrained(repo_or_dir, **shared).model_type
    return getattr(transformers, str(PROCESSOR_MAPPING_NAMES[kind]))
