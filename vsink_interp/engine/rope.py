"""Rotary embeddings that change with the longest prompt they have seen (dynamic NTK scaling)."""

from typing import Any


def forget_longest(decoder: Any) -> None:
    """Let positions of a decoder be what they are in a model that has run nothing yet.

    transformers keeps the frequencies of the longest sequence so far until a short one comes, so
    that logits would depend on what ran before.
    """
    rope: Any = getattr(decoder, "rotary_emb", None)
    kinds = getattr(rope, "rope_type", None)
    if "dynamic" not in (kinds.values() if isinstance(kinds, dict) else (kinds,)):
        return
    for name in [name for name in vars(rope) if name.endswith("max_seq_len_cached")]:
        prefix = name.removesuffix("max_seq_len_cached")
        now = getattr(rope, f"{prefix}inv_freq")
        first = getattr(rope, f"{prefix}original_inv_freq").to(now.device)
        rope.register_buffer(f"{prefix}inv_freq", first, persistent=False)
        setattr(rope, name, rope.original_max_seq_len)
