"""Load processors, also without torchvision.

Many processors include a video processor, which needs torchvision, and do not load without it. Here
the official class is built from its image processor and tokenizer alone.
"""

import re
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias, final

from ..errors import CapabilityError

Expand: TypeAlias = Callable[[Mapping[str, Any], int], str]


def without_video(official: Any) -> Any:
    """A processor class without its processors of video and sound: images and text only.

    Images are expanded into placeholders by the official class's own code.
    """

    def parts(cls: Any) -> list[str]:
        del cls
        return ["image_processor", "tokenizer"]

    def init(self: Any, image_processor: Any, tokenizer: Any, **more: Any) -> None:
        # The video part came second, and what comes second is the tokenizer now.
        official.__init__(self, image_processor, tokenizer, tokenizer, **more)

    def init_of_all(self: Any, image_processor: Any, tokenizer: Any, **more: Any) -> None:
        given = {"image_processor": image_processor, "tokenizer": tokenizer}
        self.get_attributes = official.get_attributes  # while it is made, none may be missing
        official.__init__(self, **dict.fromkeys(official.get_attributes()) | given, **more)
        del self.get_attributes

    def check(self: Any, name: str, given: Any) -> Any:
        return (
            None if given is None else official.check_argument_for_proper_class(self, name, given)
        )

    composed: dict[str, Any] = {"get_attributes": classmethod(parts)}
    arguments = [*signature(official.__init__).parameters]
    if arguments[2:4] == ["video_processor", "tokenizer"]:
        composed["__init__"] = init
    if arguments[1] == "feature_extractor":
        composed |= {"__init__": init_of_all, "check_argument_for_proper_class": check}
    return type(official.__name__, (official,), composed | {"__module__": official.__module__})


@final
class Composed:
    """A processor composed of an image processor and a tokenizer.

    **Arguments:**

    - `expand`: a function of `(inputs, number)` that returns the text of image `number`; `inputs`
        is the image processor's output.
    - `marker`: the token that this text replaces.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, expand: Expand, marker: str) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.expand = expand
        self.marker = marker
        self.chat_template: str | None = getattr(tokenizer, "chat_template", None)

    def __call__(self, text: list[str], images: Any = None, **text_kwargs: Any) -> Any:
        """Process prompts and images, as the official processor does."""
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
    """Load the processor of a model, composed of image processor and tokenizer if necessary.

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
