"""What a model does to the output of its unembedding: a multiplier, and a cap."""

import re
from inspect import getsource
from typing import Any

NAMES = ("logits_scaling", "logit_scale", "output_multiplier")
MULTIPLIED = re.compile(rf"([*/])\s*self\.(?:config\.)?(?:text_config\.)?({'|'.join(NAMES)})\b")
"""As in `logits / self.config.text_config.logits_scaling` (Granite 4 Vision)."""


def logits_scale_of(hf_model: Any) -> float:
    """What the model's own forward pass multiplies its logits by; 1 if by nothing.

    Granite divides by `logits_scaling`, HyperCLOVA X multiplies by it, and a multimodal model may
    leave out what the configuration of its language model names (LLaVA around Granite).
    """
    text = hf_model.config.get_text_config()
    if all(getattr(text, name, None) is None for name in NAMES):
        return 1.0
    found = MULTIPLIED.search(getsource(type(hf_model)))
    number = getattr(text, found[2], None) if found else None
    if found is None or number is None:
        return 1.0
    return float(number) if found[1] == "*" else 1 / float(number)


def softcap_of(hf_model: Any) -> float | None:
    """The cap on the logits, where the model's own forward pass applies it.

    The configuration of the language model may name one that the multimodal model leaves out.
    """
    cap = getattr(hf_model.config.get_text_config(), "final_logit_softcapping", None)
    own = cap is not None and "final_logit_softcapping" in getsource(type(hf_model))
    return cap if own else None
