"""TransformerLens's own view of the tiny models; it may neither download nor install."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

KEPT = []


def mend_torchvision():
    """Declare the operators of a torchvision whose compiled part does not fit this torch.

    Beside a CPU build of torch only torchvision's Python is needed here, and it asks for the
    schemas of two operators on import. Must run before anything imports it.
    """
    spec = find_spec("torchvision")
    if spec is None or KEPT:
        return
    try:
        torch.ops.load_library(str(Path(spec.origin).with_name("_C.so")))
    except OSError:
        KEPT.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            KEPT[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


mend_torchvision()

from tests import tiny  # noqa: E402 (transformers looks for torchvision on import)


def boot(hf_model, folder, *others):
    """A `TransformerBridge` over a model, with its pip disarmed."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources.transformers import helpers

    def refuse():
        return False

    hf_model.config.architectures = [type(hf_model).__name__]
    hf_model.save_pretrained(folder)
    for other in others:
        other.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(helpers, "_ensure_torchvision", refuse)
        patch.setenv("PIP_NO_INDEX", "1")
        return TransformerBridge.boot_transformers(str(folder), hf_model=hf_model, device="cpu")


def cached(bridge, encoding):
    """Logits and cache of TransformerLens's own forward pass."""
    inputs = dict(encoding.inputs)
    ids = inputs.pop("input_ids")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bridge.run_with_cache(ids, **inputs)


@pytest.fixture(scope="session")
def bridge(tmp_path_factory):
    """TransformerLens's view of the tiny LLaVA."""
    pytest.importorskip("transformer_lens")
    folder = tmp_path_factory.mktemp("llava")
    return boot(tiny.hf_model(attention="eager"), folder, tiny.processor())
