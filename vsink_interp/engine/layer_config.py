"""What a decoder's configuration says of its layers."""

from typing import Any


def per_layer(config: Any, name: str, default: int, n_layers: int) -> list[int]:
    """What a configuration says for each layer.

    Where layers differ, transformers refuses to read one value for all of them.
    """
    try:
        return [getattr(config, name, None) or default] * n_layers
    except RuntimeError:
        return [getattr(config.per_layer_config[layer], name) for layer in range(n_layers)]


def layer_kinds(config: Any, layers: Any) -> tuple[str, ...]:
    """How each decoder layer attends, in transformers' words: `full_attention` and others."""
    # A window without `layer_types` (Mistral) holds for every layer.
    window = getattr(config, "sliding_window", None)
    plain = "full_attention" if window is None else "sliding_attention"
    kinds = list(getattr(config, "layer_types", None) or [plain] * len(layers))
    for layer in getattr(config, "cross_attention_layers", None) or ():
        kinds[layer] = "cross_attention"
    return tuple(kinds)


def windows_of(config: Any, kinds: tuple[str, ...]) -> tuple[int | None, ...]:
    """The width of each layer's sliding window, the row itself included; empty if there is none."""
    sliding = [kind == "sliding_attention" for kind in kinds]
    return tuple(int(config.sliding_window) if s else None for s in sliding) if any(sliding) else ()
