"""Write docs/families.md from the self-check of every family: `python docs/gen_families.py`.

A test compares the committed page with what this prints, so the two cannot drift apart.
"""

import sys
from collections import Counter
from pathlib import Path

from vsink_interp import LMM
from vsink_interp.families import FAMILIES, REFUSED
from vsink_interp.model.capabilities import Capabilities, Capability

PAGE = Path(__file__).with_name("families.md")
HEAD = """# Model families

<!-- Written by docs/gen_families.py from the self-check of every family; edit the families. -->

A family is one form in `vsink_interp/families/`: where the parts of a model are, and how
its processor turns images into tokens. Names, flows, edits and probes are the same in all families.

All below was tested on a tiny random model of each family, built from its real classes. Real
checkpoints were not tested.

"""
SIGHT = {
    "causal": "all tokens before it",
    "image blocks": "all tokens before it, and all of its own image",
    "windowed image blocks": "as before, its own image in layers with windows alone",
    "prefix": "the whole prompt; in the answer, all tokens before it",
    "cross-attention": "all tokens before it; images through cross-attention layers",
}
HOOKS = """That a family has a hook point means: reading it changed no bit of the logits, and
overwriting it changed the logits, in the prefill and in a single decode step. `vsink check-model
DIR_OR_ID` tries it on your model, as does `lmm.capabilities` in Python. Where a hook point exists
in some layers only, `lmm.layers_with("attn.hook_pattern")` lists them, and a node that names others
is refused.
"""
TAIL = """
**What a row sees** matters for flows: in a prefix model, an image token sees the question, so
`"query -> image"` is a flow there, and cutting `"image -> query"` leaves the other direction.
Layers with a sliding window are edited like others, and keys are counted from the first token of
the prompt; a cut that leaves a window no key is refused. In the larger Gemma 4, whose configuration
says `use_bidirectional_attention="vision"`, an image token sees all of its own image in the layers
with windows alone.

**Layers that differ.** Llama 4 attends in chunks in most layers; patterns are read and edited in
the others. Its experts take the tokens of all prompts as one row, so `hook_mlp_out` is offered in
layers without experts. Layers of Gemma 4 differ in the number and width of heads, and some use the
keys of earlier ones: one record holds layers that are alike. The image processors of Llama 4 and
Cohere2 Vision need torchvision: `pip install 'vsink-interp[vision]'`.

**DeepStack** (Qwen3-VL) adds vision features to the residual stream *between* the first layers, at
image tokens: there `hook_resid_pre` of a layer is not `hook_resid_post` of the one before it.

**Linear attention** (Qwen3.5, three of four layers) has a state instead of keys, and no pattern:
edits inside attention act in the other layers. Information that is cut there still flows through
the linear layers. Heads are gated after the pattern weights the values; `attn.hook_z` includes the
gate.

**Cross-attention** (Mllama) reads images in some layers, and the prompt has no image tokens. The
group `image` is therefore refused with this reason, and with it VAR, maps and knockouts of image
tokens. The other layers attend to the prompt, BOS sinks included, and are edited like any model's.
Cross-attention layers offer the residual stream and the MLP's hidden layer; for a prompt without
images the model skips these layers, and a node there is refused. All prompts of a batch must have
the same number of images.

**A model of no known family** is inspected when it is opened. If its parts have the usual names it
works, is marked *inferred* and is checked at once; where its image tokens lie in the image is then
unknown. [Add a family](adding-a-family.md) to say where.
If its tower or projector has no usual name (BLIP-2, InstructBLIP, Emu3), the decoder is
open and the vision hooks are refused by name.

Every class that transformers knows for images and text opens like this or is refused with a reason:
one that reads the prompt in an encoder beside its decoder (Florence-2, T5Gemma 2, InstructBLIP
around FLAN-T5), one around OPT (most of BLIP-2), one whose rows see more than its masks say.
[Decoders](decoders.md) lists what other language models offer inside a LLaVA.

**BLIP-2 and InstructBLIP** put the query tokens of one image before the prompt; they are the group
`image`, and belong to no place in it. InstructBLIP's have read the question.

**Videos** (`vi.Video`, frames that you sampled) are read by {films}. Their video processors need
torchvision; here the image processor cuts the frames as those do. The other families refuse a
video by name: give frames as images. Qwen3-VL and Qwen3.5 write the time in front of every step;
these tokens are in `query & separator`.

**Out of scope**: checkpoints whose code comes with their weights. Of InternVL take the converted
ones, whose names end in `-hf`, such as `OpenGVLab/InternVL3-1B-hf`; of Ovis2
`thisisiron/Ovis2-2B-hf`, of Emu3 `Emu3-community/Emu3-Chat-hf`, of LLaVA those of `llava-hf`. VILA
has none.

**Refused, by name:**

{refused}

**Processors.** Most processors of these families also hold a video processor, which needs
torchvision. Where it is not installed, `LMM.from_pretrained` uses the official class with its image
processor and tokenizer alone: prompts and images go through its own code, videos through ours.

`make tl` compares such a processor with the official one under torchvision, family by family, on
three images of different shapes. Token ids, masks and grids are equal. So are pixels where an image
needs no resizing; otherwise they differ by up to 12 of 255 levels of brightness at single pixels
and by 0.04 on average, because PIL and torchvision resize with different kernels.
"""


def about(checks: list[Capabilities]) -> list[str]:
    """The families and their model types, then what sets some of them apart."""
    forms = {family.name: family for family in FAMILIES}
    shown = [forms[check.family] for check in checks]
    lines = ["| family | model types |", "|---|---|"]
    for family in shown:
        kinds = ", ".join(f"`{kind}`" for kind in family.model_types)
        lines.append(f"| {family.name} | {kinds} |")
    layers = {family.name: f"`{family.layers}`" for family in shown}
    sights = {family.name: SIGHT[family.sight] for family in shown}
    return [
        *lines,
        "",
        f"The decoder layers are {_mostly(layers)}.",
        "",
        f"A row sees {_mostly(sights)}.",
    ]


def _mostly(told: dict[str, str]) -> str:
    """The commonest value, and whose differs."""
    usual = Counter(told.values()).most_common(1)[0][0]
    others: dict[str, list[str]] = {}
    for name, value in told.items():
        if value != usual:
            others.setdefault(value, []).append(name)
    if not others:
        return usual
    return f"{usual}; " + "; ".join(f"in {', '.join(who)}: {what}" for what, who in others.items())


def hooks(checks: list[Capabilities]) -> list[str]:
    """The hook points that some family lacks, in whole or in some layers; the like in one line."""
    found: dict[str, list[str]] = {}
    for row in zip(*(check.hooks for check in checks), strict=True):
        found.setdefault(_exceptions(row, checks), []).append(f"`{row[0].hook}`")
    everywhere = found.pop("")
    lines = ["| exception | hook points |", "|---|---|"]
    lines += [f"| {told} | {', '.join(points)} |" for told, points in found.items()]
    return [
        f"In every layer of every family: {', '.join(everywhere)}.",
        "",
        "The others:",
        "",
        *lines,
    ]


def _exceptions(row: tuple[Capability, ...], checks: list[Capabilities]) -> str:
    """Which families lack a hook point and why, and which have it in some layers alone."""
    lacking: dict[str, list[str]] = {}
    partial, having = [], []
    for one, check in zip(row, checks, strict=True):
        if not one.works:
            lacking.setdefault(one.reason, []).append(check.family)
            continue
        having.append(check.family)
        if one.hook.startswith("blocks.") and one.n_layers < _depth(check):
            partial.append(check.family)
    if len(having) < len(checks) / 2:
        told = [f"only in {', '.join(having)}"]
    else:
        told = [f"not in {', '.join(who)}: {reason}" for reason, who in lacking.items()]
    if partial:
        told.append(f"in {', '.join(partial)} only in some layers")
    return "; ".join(told)


def _depth(check: Capabilities) -> int:
    return max(one.n_layers for one in check.hooks if one.hook.startswith("blocks."))


def page(checks: list[Capabilities]) -> str:
    """The whole page."""
    forms = {family.name: family for family in FAMILIES}
    films = ", ".join(check.family for check in checks if forms[check.family].video)
    refused = "\n".join(f"- `{kind}`: {why}." for kind, why in REFUSED.items())
    lines = [*about(checks), "", "## Hook points", "", HOOKS, *hooks(checks)]
    return HEAD + "\n".join(lines) + "\n" + TAIL.format(refused=refused, films=films)


if __name__ == "__main__":
    PAGE.write_text(page([LMM.tiny(f.name).capabilities for f in FAMILIES if f.tiny]))
    sys.stdout.write(f"wrote {PAGE.name}: {len(FAMILIES)} families\n")
