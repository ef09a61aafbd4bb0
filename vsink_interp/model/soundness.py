"""Whether a model is what it was when it was opened, and computes numbers."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import CapabilityError, InputError, VsinkError
from ..families import Family
from ..graph import EditGraph
from .encoding import Encoding, refuse_default_device


def drops(hf_model: Any) -> bool:
    """Whether a model in training mode would drop activations at random."""
    rates = [m.p for m in hf_model.modules() if isinstance(m, torch.nn.Dropout)]
    return any(rates) or bool(getattr(hf_model.config.get_text_config(), "attention_dropout", 0))


def refuse_parts(hf_model: Any, processor: Any) -> None:
    """Refuse what is not a model and its processor.

    **Raises:** `InputError` saying how to open one.
    """
    if not isinstance(hf_model, torch.nn.Module):
        name = hf_model if isinstance(hf_model, str) else "a repository or folder"
        raise InputError(
            f"LMM takes a transformers model, and got {hf_model!r}; open a repository or folder by "
            f"LMM.from_pretrained({name!r})"
        )
    if not hasattr(processor, "tokenizer"):
        raise InputError(
            "LMM takes the processor of the model, with its tokenizer and image processor, and got "
            f"{type(processor).__name__}; load it by transformers.AutoProcessor.from_pretrained"
        )


@contextmanager
def own_errors(hf_model: Any) -> Generator[None]:
    """Name the model where a part of it, or of its processor, is not as it was taken to be.

    **Raises:** `CapabilityError` in place of whatever else is raised inside.
    """
    try:
        yield
    except VsinkError:
        raise
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        raise CapabilityError(
            f"{type(hf_model).__name__} could not be opened: its parts were found, and do not "
            f"work as those of a known family do ({type(error).__name__}: {line}). A family is "
            "one file: see docs/adding-a-family.md"
        ) from error


def refuse_moved(layers: Any) -> None:
    """Refuse layers that stand elsewhere than they say, as those that were swapped, cut out or used
    twice do: transformers keeps their keys, and we find their hook points, by what they say.

    **Raises:** `CapabilityError` naming the first one.
    """
    for place, layer in enumerate(layers):
        for name, part in layer.named_children():
            said = getattr(part, "layer_idx", place)
            if isinstance(said, int) and said != place:
                raise CapabilityError(
                    f"the model's layer {place} calls itself layer {said} ({name}.layer_idx), so "
                    "the cache and our hook points would be those of another layer; give every "
                    "place a layer of its own (copy.deepcopy for one that is used twice) and set "
                    f"its {name}.layer_idx to its place"
                )


def refuse_changed(lmm: Any, encoding: Encoding) -> None:
    """Refuse a model that is not as it was opened, or another model's encoding.

    **Raises:** `CapabilityError` or `InputError` saying what differs.
    """
    refuse_default_device()
    hooked, hf_model = lmm.hooked, lmm.hf_model
    layers = hf_model.get_submodule(hooked.family.layers)
    if len(layers) != hooked.n_layers or layers is not hooked.layers:
        raise CapabilityError(
            f"the model has {len(layers)} decoder layers, and had {hooked.n_layers} when it was "
            "opened; open it anew: LMM(hf_model, processor)"
        )
    refuse_moved(layers)
    training = hf_model.training or any(layer.training for layer in layers)
    if training and drops(hf_model):
        raise CapabilityError(
            "the model is in training mode and drops activations at random; call hf_model.eval()"
        )
    if training and getattr(hf_model, "is_gradient_checkpointing", False):
        raise CapabilityError(
            "the model is in training mode and checkpoints its gradients, so transformers keeps no "
            "cache; call hf_model.eval()"
        )
    here = made_by(hf_model.config, lmm.processor, hooked.family)
    if here != lmm.opened_with:
        raise CapabilityError(
            f"the processor was exchanged after opening (then: {lmm.opened_with}; now: "
            f"{here}); open it anew: LMM(hf_model, processor)"
        )
    if encoding.made_by and encoding.made_by != here:
        raise InputError(
            f"this encoding was made for another model ({encoding.made_by}; here: {here}); encode "
            "the image and prompt with this one"
        )


def made_by(config: Any, processor: Any, family: Family) -> str:
    """What must agree between models that can share an encoding, in words."""
    image = getattr(config, "image_token_id", None)
    return f"{family.name}, {len(processor.tokenizer)} tokens, image token {image}"


def refuse_nan(hooked: Any, encoding: Encoding, graph: EditGraph, logits: Tensor) -> None:
    """Refuse logits that are not numbers, by the model or by edits.

    **Raises:** `CapabilityError` naming the first layer whose output is not finite, or the edits.
    """
    if not logits[:, -1].isnan().any():
        return
    alone = ""
    if not hooked.weightless and encoding.cached_prefix is None:
        _refuse_model(hooked, encoding)
        alone = ", and those of the model alone are"
    raise CapabilityError(
        f"the logits under {graph!r} are not numbers{alone}: an edit, or the model where the graph "
        "has none, makes values too large for its precision (load it in float32 or bfloat16), or a "
        "row is left nothing to attend to"
    )


def _refuse_model(hooked: Any, encoding: Encoding) -> None:
    """Refuse a model whose logits are not numbers without any edit."""
    bad: list[int] = []

    def see(layer: int, output: Any) -> None:
        resid = output[0] if isinstance(output, tuple) else output
        if not resid.isfinite().all():
            bad.append(layer)

    handles = [
        layer.register_forward_hook(lambda *seen, at=at: see(at, seen[2]))
        for at, layer in enumerate(hooked.layers)
    ]
    try:
        with hooked.turns.hold(), torch.no_grad():
            plain = hooked.hf_model(**hooked.here(encoding.inputs)).logits
    finally:
        for handle in handles:
            handle.remove()
    if plain[:, -1].isnan().any():
        where = f"layer {bad[0]} is the first" if bad else "the unembedding is the first"
        raise CapabilityError(
            f"{type(hooked.hf_model).__name__} computes logits that are not numbers, without any "
            f"edit: {where} whose output is not finite. Look for NaN or infinite weights there, or "
            "load it in float32 or bfloat16"
        )
