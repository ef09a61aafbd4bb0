"""The entry point by which lmms-eval finds `--model vsink`; the model itself: `lmms_eval_model`.

lmms-eval loads this file each time that it starts, whichever model it is asked for, so nothing
heavy is imported here.
"""

from typing import Any


def manifest() -> Any:
    """What lmms-eval registers: the name `vsink`, and a class for each of its two task forms.

    **Returns:** a `ModelManifest` of lmms-eval, which asks for it; the entry point group is
    `lmms_eval.models`.
    """
    from lmms_eval.models.registry_v2 import (  # ty: ignore[import-not-found] (optional)
        ModelManifest,
    )

    home = f"{__package__}.lmms_eval_model"
    return ModelManifest(
        model_id="vsink",
        chat_class_path=f"{home}.ChatVsink",
        simple_class_path=f"{home}.SimpleVsink",
        aliases=("vsink_interp",),
    )
