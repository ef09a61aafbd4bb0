"""Identities that must hold in any model, tested on each model that is opened.

Writing back the value that was read changes no logit beyond rounding, so nothing bypasses the hook
point; and the parts of a layer sum to what the layer adds to the residual stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..edits import Fn
from ..engine import ATTENDING, own_mask
from ..graph import HOOKS, EditGraph, HookPoint, find_hook
from ..probes import Activation
from ..tokens import Sight, TokenLayout

PROMPT = "what is this"
PARTS = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")
LAYER = "blocks.{layer}."
ROUNDINGS = 8
"""How many roundings a sum of two parts may be off."""


def failed_here(lmm: Any) -> Mapping[str, str]:
    """The hook points of an `LMM` that break an identity with its own weights, and how.

    Two forward passes of a few tokens, and more only where something fails. Nothing fails where the
    logits are not finite.
    """
    encoding = lmm.encode(None if lmm.hooked.family.text_alone else noise(), PROMPT)
    with torch.no_grad():
        plain = lmm.hf_model(**encoding.inputs).logits
    if not plain.isfinite().all():
        return {}
    points = offered(lmm, encoding)
    failed: dict[str, str] = {}
    if changed_by_rewriting(lmm, points, encoding, plain):
        for point in points:
            if why := changed_by_rewriting(lmm, [point], encoding, plain):
                failed[point.template] = why
    if failed.keys().isdisjoint(LAYER + name for name in PARTS):
        failed |= parts_that_miss(lmm, encoding)
    return failed


def offered(lmm: Any, encoding: Any) -> list[HookPoint]:
    """The hook points that a model offers and a prompt reaches."""
    points = [point for point in HOOKS if not lmm.hooked.refusal(point)]
    if not any(encoding.images):
        points = [point for point in points if not point.template.startswith("vision")]
    return points


def unlike_heads(lmm: Any) -> str:
    """Why what heads add is not their values weighed by the pattern; empty if it is.

    Something stands between the heads and the output projection: a norm (BitNet).
    """
    point = find_hook("attn.hook_z")
    if lmm.hooked.refusal(point) or not lmm.hooked.computes(point, None):
        return ""
    layer = next(iter(lmm.hooked.offering(point)))
    attention = getattr(lmm.hooked.layers[layer], "self_attn", None)
    projection = getattr(attention, "o_proj", None)
    if projection is None:
        return ""
    encoding = lmm.encode(None if lmm.hooked.family.text_alone else noise(), PROMPT)
    probe, given = Activation(point.name, layer), []
    handle = projection.register_forward_pre_hook(lambda _, args: given.append(args[0].detach()))
    try:
        z = lmm.run(encoding, graph=probe)[probe].values[0].flatten(-2).float()
    finally:
        handle.remove()
    seen = given[0].float().cpu()
    if not seen.isfinite().all() or (seen - z).square().mean() <= 0.01 * seen.square().mean():
        return ""
    return (
        f"{type(lmm.hf_model).__name__} changes its heads between the values that the pattern "
        "weighs and the output projection, so these do not say what a head adds; attn.hook_result "
        "does"
    )


def unlike_logits(lmm: Any) -> str:
    """Why the final norm and the unembedding do not make the model's logits; empty if they do.

    Something stands between or behind them that is not known: another multiplier, a second head.
    """
    hooked, seen = lmm.hooked, []
    if why := hooked.refusal(find_hook("ln_final.hook_out")):
        return f"the final norm of {type(lmm.hf_model).__name__} is not known here: {why}"
    encoding = lmm.encode(None if hooked.family.text_alone else noise(), PROMPT)
    norm = hooked.module("ln_final.hook_out")
    handle = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        with torch.no_grad():
            plain = lmm.hf_model(**encoding.inputs).logits.float()
            made = hooked.unembed(seen[0]).float().to(plain.device)
    finally:
        handle.remove()
    allowed = 1e-3 if torch.finfo(lmm.dtype).eps < 1e-5 else 0.1
    if not plain.isfinite().all() or (made - plain).abs().max() <= allowed * plain.abs().max():
        return ""
    return (
        f"{type(lmm.hf_model).__name__} does not make its logits of the final norm and the "
        "unembedding as far as they are known here, so residual vectors cannot be read as words"
    )


def own_sight(lmm: Any) -> Sight | None:
    """What a row of a model sees besides the tokens before it, by transformers' own masks.

    The first that fits the masks of a small prompt in every layer that attends to tokens; None if
    none does. Nothing is computed but masks.
    """
    hooked, encoding = lmm.hooked, lmm.encode(noise(), PROMPT)
    first = {kind: hooked.kinds.index(kind) for kind in hooked.kinds if kind in ATTENDING}
    masks = {kind: own_mask(hooked, kind, encoding.inputs) for kind in first}
    for sight in ("causal", "image blocks", "windowed image blocks", "prefix"):
        layout = replace(encoding.layout, sight=sight)
        if all(_sees_so(layout, mask, hooked.family.window(first[k])) for k, mask in masks.items()):
            return sight
    return None


def _sees_so(layout: TokenLayout, mask: Any, window: int | None) -> bool:
    """Whether a mask is what a layout says that rows see; so it is where there is no tensor."""
    rows = range(layout.length)
    if mask is None:
        return torch.equal(
            layout.visible(rows, window), replace(layout, sight="causal").visible(rows, None)
        )
    return not isinstance(mask, Tensor) or torch.equal(
        layout.visible(rows, window), mask[:, 0].cpu()
    )


def noise() -> Image.Image:
    """A small image for trials."""
    pixels = np.random.default_rng(0).integers(0, 256, (56, 70, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def rewriting(lmm: Any, point: HookPoint, encoding: Any) -> Fn:
    """An edit that writes what it reads, at every layer that offers a hook point."""
    if point.stack is None:
        return Fn(point.template, _same)
    layers = lmm.hooked.offering(point)
    if point.stack == "blocks" and not any(encoding.images):
        kinds = lmm.hooked.kinds
        layers = tuple(layer for layer in layers if kinds[layer] != "cross_attention")
    return Fn(asked_as(point), _same, layers=layers)


def asked_as(point: HookPoint) -> str:
    """The name by which nodes ask for a hook point."""
    return point.name if point.stack == "blocks" else point.template


def changed_by_rewriting(
    lmm: Any, points: Sequence[HookPoint], encoding: Any, plain: Tensor
) -> str:
    """What is wrong where writing what was read at hook points changes the logits by more than
    rounding; empty if it does not.
    """
    graph = EditGraph(*(rewriting(lmm, point, encoding) for point in points))
    try:
        new, old = lmm.run(encoding, graph=graph).logits.float(), plain.float().cpu()
    except Exception as error:  # noqa: BLE001 (whatever it raises, the hook point fails)
        return f"rewriting: {(str(error).splitlines() or [''])[0][:160]}"
    allowed = 1e-4 if torch.finfo(plain.dtype).eps < 1e-5 else 0.1
    unchanged = (new - old).square().mean() <= (allowed * old.std()) ** 2
    return "" if unchanged else "writing the value that was read changes the logits"


def _same(value: Tensor, hook: Any) -> Tensor:
    del hook
    return value.clone()


def parts_that_miss(lmm: Any, encoding: Any) -> Mapping[str, str]:
    """The hook points of the parts of a layer that do not add up, and why.

    `resid_pre + attn_out = resid_mid` and `resid_mid + mlp_out = resid_post`, element by element.
    """
    points = [point for point in HOOKS if point.template.removeprefix(LAYER) in PARTS]
    offered = [set(lmm.hooked.offering(point)) for point in points]
    layers = tuple(sorted(set.intersection(*offered)))
    if not any(encoding.images):
        layers = tuple(at for at in layers if lmm.hooked.kinds[at] != "cross_attention")
    if not layers:
        return {}
    probes = [Activation(name, layers) for name in PARTS]
    run = lmm.run(encoding, graph=EditGraph(*probes))
    pre, attn, mid, mlp, post = (run[probe].values for probe in probes)
    first, second = _add_up(pre, attn, mid), _add_up(mid, mlp, post)
    wrong = {
        "hook_attn_out": not first,
        "hook_resid_mid": not first and not second,
        "hook_mlp_out": not second,
    }
    why = "what a layer adds is not the sum of its parts as they are read here"
    return {LAYER + name: why for name, is_wrong in wrong.items() if is_wrong}


def _add_up(before: Tensor, added: Tensor, after: Tensor) -> bool:
    # Norms compute in fp32 also where the model is in float64.
    eps = max(torch.finfo(after.dtype).eps, torch.finfo(torch.float32).eps)
    before, added, after = before.double(), added.double(), after.double()
    allowed = ROUNDINGS * eps * (before.abs() + added.abs() + after.abs())
    return bool(((before + added - after).abs() <= allowed).all())
