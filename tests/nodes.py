"""Every edit and every probe of the package, as the laws go over them."""

from jaxtyping import Float
from torch import Tensor

import vsink_interp as vi
from tests import tiny
from vsink_interp import probes


def grow(activation, hook):
    """A hook function that returns what it makes."""
    del hook
    return activation * 1.5


def grow_in_place(activation, hook):
    """A hook function that writes, and returns nothing, as TransformerLens allows."""
    del hook
    activation.mul_(1.5)


@vi.probe("attn.hook_pattern")
def sharpest(pattern, site) -> Float[Tensor, "batch head query"]:
    return (pattern * site.keys("all")[:, None, None]).amax(-1)


@vi.probe("hook_mlp_out")
def loudest(mlp_out, site) -> Float[Tensor, "batch d_model"]:
    del site
    return mlp_out.abs().amax(1)


NORMED = ("attn.q_norm.hook_out", "attn.k_norm.hook_out")
"""Hook points that LLaMA's layers lack: `families/test_norms.py` has them."""
POINTS = [point for point in vi.HOOKS if point.name not in NORMED]
HOOKS = [point.name if point.stack == "blocks" else point.template for point in POINTS]
"""The hook points of the tiny LLaVA, as `Fn` and `Activation` name them."""

VISION = [name for name in HOOKS if name.startswith("vision")]

DIRECTION = (0.5, -0.5, 1.0, 0.0) * (tiny.WIDTH // 4)
KNOCKOUTS = {
    "image to query": vi.Knockout("image -> query"),
    "image to generated": vi.Knockout("image -> query generated", "1:"),
    "query to itself": vi.Knockout("query -> query generated", "0,2"),
    "their query tokens": vi.Knockout("system query -> prompt & ~image generated", "except 1"),
    "first token": vi.Knockout("image -> generated", "1:", first_token=True),
    "second image": vi.Knockout("~image[0] & image -> query generated"),
    "sinks": vi.Knockout("sink & image -> query generated"),
    "sinks as rows": vi.Knockout("bos -> sink & image"),
    "some heads": vi.Knockout("image -> query generated", heads=(0, 3)),
    "sinks of a head": vi.Knockout("sink & image -> query generated", "1:", heads=(2,)),
}
HIDDEN = {
    "visual sinks": vi.HideKeys("sink & image"),
    "control": vi.HideKeys("sink & image", control=3, pool="all"),
    "one control": vi.HideKeys("sink & image", "1:", control=3, pool="all", redraw=False),
    "partial control": vi.HideKeys("sink & image", control=3, partial=True),
    "places": vi.HideKeys((4, 7), target="query"),
    "system": vi.HideKeys("system"),
}
VARS = {
    "paper": vi.VAR(p=0.6, rho=0.5, min_image_mass=0.1),
    "released code": vi.VAR(p=0.4, rho=0.5, min_image_mass=0.1, mode="released-code"),
    "sinks of the prompt": vi.VAR(p=0.6, rho=0.5, min_image_mass=0.1, sinks_from="prefill"),
    "own tau": vi.VAR(p=1.0, rho=0.2, min_image_mass=0.1, tau=1.2, layers="0:2"),
}
SIZED = {
    "scaled scores": vi.edits.ScaleScores("image", 3.0),
    "raised scores": vi.edits.ScaleScores("image", 1.5, by="size", heads=(0, 3)),
    "added scores": vi.edits.AddScores("image & ~sink", 2.0, layers="1:"),
    "moved mass": vi.edits.Redistribute("bos system sink", "image", 0.9),
    "copied head": vi.edits.CopyHead(2),
    "scaled heads": vi.edits.ScaleHeads(0.2, heads=(0, 1)),
    "scaled keys": vi.edits.ScaleKeys("image", 0.2),
    "steered": vi.edits.Steer((0.5, -0.5) * (tiny.WIDTH // 2), "1:3"),
    "steered at the old norm": vi.Steer((0.5, -0.5) * (tiny.WIDTH // 2), "1:3", norm="keep"),
    "set dimensions": vi.edits.SetDims((3, 17), 4.0, layers=1),
}
NEURONS = {
    "vision neurons moved": vi.edits.MoveNeurons((3, 17), 2, ":", spare=1),
    "vision neurons moved by size": vi.edits.MoveNeurons((5,), -1, 1, scale=2.0, by="size"),
}
CALIBRATIONS = {
    "calibrated": vi.edits.ACT(0.06, 0.1, layers=":"),
    "calibrated answer": vi.edits.ACT(0.06, 0.1, layers="1:", rows="query generated", heads=(0, 2)),
}
BY_ROW = {
    "heads cut by row": vi.Knockout(
        "image -> query generated", "1:", heads=vi.TopHeads("image", 2)
    ),
}
SHRINKING = {
    "scaled pattern": vi.ScalePattern("image & ~sink", 0.2, heads=(0, 3)),
    "register": vi.SoftmaxRegister(1.5, layers="1:"),
    "heads damped by row": vi.ScaleHeads(0.1, heads=~vi.TopHeads("sink & image", 2)),
}
"""Edits after which rows sum to less than one."""
DROPS = {
    "image dropped": vi.DropKeys("image"),
    "sinks dropped": vi.DropKeys("sink & image", "1:"),
}
"""Edits of the cache: they act between passes, so their laws are in `edits/test_drop_keys.py`."""
CONTRASTS = {
    "noised image": vi.edits.Contrast("noise", beta=0.0, seed=3),
    "disturbed instruction": vi.edits.Contrast(prefix="you are a big blue friend", beta=0.0),
    "edited second pass": vi.edits.Contrast(
        graph=vi.edits.ScaleScores("image", 0.2, heads=vi.TopHeads("sink & image", 2)), beta=0.0
    ),
}
OTHER = tiny.lmm().run(
    tiny.lmm().encode(tiny.image(9), "count"),
    graph=probes.Activation("hook_resid_pre")
    | probes.Activation("attn.hook_z")
    | probes.Activation("hook_mlp_out"),
)
REPLACED = {
    "heads to zero": vi.Ablate("attn.hook_z", "1:", heads=(0, 2)),
    "image keys to zero": vi.Ablate("attn.hook_v", 1, rows="image", heads=(1,)),
    "MLP to its mean": vi.Ablate("hook_mlp_out", "1:3", by="mean", source=OTHER),
    "heads to those of other tokens": vi.Ablate(
        "attn.hook_z", "1:3", by="resample", source=OTHER, rows="query generated"
    ),
}
PATCHES = {
    "patched image": vi.edits.Patch("hook_resid_pre", OTHER, "1:3", rows="image[0]"),
    "patched heads": vi.edits.Patch("attn.hook_z", OTHER, rows="image[0]"),
}
FNS = {hook: vi.Fn(hook, grow) for hook in HOOKS}
IN_PLACE = {f"{hook} in place": vi.Fn(hook, grow_in_place) for hook in HOOKS}

PORTABLE = (
    KNOCKOUTS | HIDDEN | VARS | SIZED | NEURONS | CALIBRATIONS | REPLACED | BY_ROW | SHRINKING
)
EDITS: dict[str, vi.Edit] = PORTABLE | CONTRASTS | PATCHES | FNS | IN_PLACE
VALUES: dict[str, vi.Edit] = PORTABLE | CONTRASTS | DROPS
"""The edits that JSON can carry: those that change patterns, and all."""

ACTIVATIONS = {hook: probes.Activation(hook) for hook in HOOKS}
OTHERS: dict[str, vi.Probe] = {
    "pre": probes.Resid(at="pre"),
    "mid": probes.Resid("query", "1:3", at="mid"),
    "post": probes.Resid("image", at="post"),
    "logits": probes.Logits(),
    "contribution": probes.Contribution(),
    "function": sharpest,
    "function without rows": loudest,
    "maps": probes.AttentionMaps(),
    "maps of the prompt": probes.AttentionMaps("query", "1,3"),
    "mass": probes.SegmentMass(),
    "mass of far rows": probes.SegmentMass("bos query"),
    "mass by sinks": probes.SegmentMass(
        groups=("sink & image", "image & ~sink", "prompt & ~image")
    ),
    "ratio": probes.NonSinkRatio(),
    "pattern": probes.Pattern(),
    "whole pattern": probes.Pattern("all"),
    "lens": probes.LogitLens(),
    "lens of text": probes.LogitLens("query generated", "1:3", at="pre", top_k=2),
    "probability of words": probes.TokenProbability("all", tokens=(7, 9)),
    "attribution": probes.LogitAttribution(direction=DIRECTION),
    "attribution by sinks": probes.LogitAttribution(
        "all", "1:", direction=DIRECTION, groups=("sink & image", "image & ~sink")
    ),
    "projection": probes.Projection(hook="hook_mlp_out", direction=DIRECTION),
    "phi": probes.SinkValue(),
    "phi of given dimensions": probes.SinkValue("image", dims=(1, 5)),
}
PROBES: dict[str, vi.Probe] = {f"activation {k}": v for k, v in ACTIVATIONS.items()} | OTHERS
RARE: dict[str, vi.Probe] = {
    "gradient": probes.Gradient("hook_resid_pre", of="logit of 'blue' at last", layers="1:"),
    "gradient of patterns": probes.Gradient(
        "attn.hook_pattern", of="logit of 7 - 'red' at query", rows="query"
    ),
    "learned sinks": probes.LearnedSinkMass(),
}
"""Probes that not every run can have: of a backward pass, and of models with learned sinks."""
EVERY_PROBE = PROBES | RARE
PORTABLE_PROBES = {k: v for k, v in EVERY_PROBE.items() if not k.startswith("function")}

NEEDS_TWO_IMAGES = {"second image"}


def prompt_for(name: str) -> str:
    """A prompt on which the edit of this name acts."""
    return "two images" if name in NEEDS_TWO_IMAGES else "one image"


def encoding_for(name: str) -> vi.Encoding:
    return tiny.encode(prompt_for(name))


def real(encoding: vi.Encoding) -> Tensor:
    """The rows that are no padding."""
    return encoding.inputs["attention_mask"].bool()


def apart(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).detach().abs().max())
