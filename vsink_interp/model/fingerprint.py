"""Fingerprints of a model's weights and settings, to notice when they change."""

import hashlib
import json
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

ROWS = 8
"""How many rows of each tensor are looked at, spread evenly; every element of a smaller one."""
PACKAGES = ("torch", "transformers", "nnsight", "vsink-interp")
SAVED = ("architectures", "dtype")
"""What saving a model writes into its configuration; the weights say as much."""
VOLATILE = frozenset(
    {"_name_or_path", "transformers_version", "_attn_implementation_autoset", *SAVED}
)


def fingerprint(lmm: Any) -> dict[str, Any]:
    """What the answers of a model depend on, taken as it is now.

    Rows of every tensor are sampled: training, merging an adapter or another precision changes
    them all, and a change of single rows may be missed.

    **Returns:** digests of `weights`, `config` and `processor`; `attention`, and `versions`, not
    for which GPU torch was built: a job that began on a laptop goes on where there is one.
    """
    hf_model = lmm.hf_model
    with lmm.alone(), torch.no_grad():
        weights = hashlib.sha256()
        for name, tensor in (*hf_model.named_parameters(), *hf_model.named_buffers()):
            weights.update(repr((name, tuple(tensor.shape), tensor.dtype)).encode())
            weights.update(_sampled(tensor))
        weights.update(repr(_adapters(hf_model)).encode())
        attention = lmm.hooked.attention
    settings = [hf_model.config, getattr(hf_model, "generation_config", None)]
    return {
        "model": lmm.name,
        "weights": weights.hexdigest()[:16],
        "config": _short([one.to_dict() for one in settings if one is not None]),
        "attention": attention,
        "processor": _short(_processing(lmm.processor)),
        "versions": {name: version(name).partition("+")[0] for name in PACKAGES},
    }


def _sampled(tensor: Tensor) -> bytes:
    if tensor.is_meta or not tensor.numel():
        return b""
    rows = tensor.detach().reshape(-1, tensor.shape[-1] if tensor.ndim > 1 else 1)
    if len(rows) > ROWS and rows.numel() > 4096:
        places = torch.linspace(0, len(rows) - 1, ROWS).long()
        rows = rows[places.to(rows.device)]
    try:
        held = rows.contiguous().cpu().view(torch.uint8)
    except (RuntimeError, NotImplementedError, TypeError):  # packed by a quantiser
        held = rows.float().contiguous().cpu().view(torch.uint8)
    return held.numpy().tobytes()


def _adapters(hf_model: Any) -> list[tuple[str, str]]:
    """How the adapters of a model are switched."""
    switches = ("active_adapters", "merged_adapters", "disable_adapters", "scaling")
    return [
        (name, repr([getattr(module, switch) for switch in switches]))
        for name, module in hf_model.named_modules()
        if hasattr(type(module), "merged_adapters") and hasattr(module, "scaling")
    ]


def _processing(processor: Any) -> list[Any]:
    tokenizer = getattr(processor, "tokenizer", None)
    found: list[Any] = [getattr(processor, "chat_template", None)]
    for part in ("image_processor", "video_processor"):
        held = getattr(processor, part, None)
        found.append(held.to_dict() if hasattr(held, "to_dict") else repr(type(held)))
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None:
        return [*found, sorted(tokenizer.get_vocab().items()) if tokenizer else None]
    # How the last call padded and cut is kept in it.
    words = json.loads(inner.to_str())
    return [*found, {k: v for k, v in words.items() if k not in ("padding", "truncation")}]


def _short(found: Any) -> str:
    return hashlib.sha256(json.dumps(_steady(found), default=repr).encode()).hexdigest()[:16]


def _steady(found: Any) -> Any:
    """Without what differs from one opening to the next."""
    if isinstance(found, dict):
        kept = {str(name): _steady(x) for name, x in found.items() if name not in VOLATILE}
        return dict(sorted(kept.items()))
    if isinstance(found, list | tuple):
        return [_steady(one) for one in found]
    if isinstance(found, set | frozenset):
        return sorted(map(repr, found))
    return found
