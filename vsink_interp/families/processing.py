"""Processors, also where torchvision is not installed.

Many processors hold a video processor, which needs torchvision, and so refuse to load without it.
Pictures and text do not: here the official class is given its image processor and tokenizer alone.
"""

from pathlib import Path
from typing import Any

from ..errors import CapabilityError


def without_video(official: Any) -> Any:
    """A processor class as it is, but for its video processor: pictures and text only.

    Everything that turns pictures into placeholders is the official class's own code.
    """

    def parts(cls: Any) -> list[str]:
        del cls
        return ["image_processor", "tokenizer"]

    composed = {"get_attributes": classmethod(parts), "__module__": official.__module__}
    return type(official.__name__, (official,), composed)


def load_processor(repo_or_dir: str | Path, **shared: Any) -> Any:
    """The processor of a model, composed of image processor and tokenizer where it must be.

    **Raises:** `CapabilityError` naming the extra to install, if it needs torchvision.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(repo_or_dir, **shared)
    except ImportError as error:
        try:
            return without_video(_official(repo_or_dir, **shared)).from_pretrained(
                repo_or_dir, **shared
            )
        except (ImportError, AttributeError, TypeError, ValueError):
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
