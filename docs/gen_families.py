"""Write docs/families.md from the self-check of every family: `python docs/gen_families.py`.

A test compares the committed page with what this prints, so the two cannot drift apart.
"""

import sys
from pathlib import Path

from vsink_interp import LMM
from vsink_interp.families import FAMILIES, REFUSED, Family
from vsink_interp.model.capabilities import Capabilities, Capability

PAGE = Path(__file__).with_name("families.md")
HEAD = """# Model families

<!-- Written by docs/gen_families.py from the self-check of every family; edit the families. -->

A family is one form in `vsink_interp/families/`: where the parts of a model are, and how
its processor turns images into tokens. Names, flows, edits and probes are the same in all families.

The table below was tested on a tiny random model of each family, built from its real classes:
reading a hook point changed no bit of the logits, and overwriting it changed the logits, in the
prefill and in a single decode step. `vsink check-model DIR_OR_ID` does the same for your model, as
does `lmm.capabilities` in Python. Real checkpoints were not tested.

"""
SIGHT = {
    "causal": "all tokens before it",
    "image blocks": "all tokens before it, and all of its own image",
    "prefix": "the whole prompt; in the answer, all tokens before it",
    "cross-attention": "all tokens before it; images through cross-attention layers",
}
TAIL = """
`yes`: can be read and written in every layer. `some`: only in some layers;
`lmm.layers_with("attn.hook_pattern")` lists them, and a node that names others is refused. {why}.

**What a row sees** matters for flows: in a prefix model, an image token sees the question, so
`"query -> image"` is a flow there, and cutting `"image -> query"` leaves the other direction.
Layers with a sliding window are edited like others, and keys are counted from the first token of
the prompt; a cut that leaves a window no key is refused.

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
If its tower or projector has no usual name (BLIP-2, InstructBLIP, Emu3, Gemma 4), the decoder is
open and the vision hooks are refused by name. Llama 4 and Cohere2 Vision open like this too (their
processors need torchvision); in Llama 4 attention can be edited in the layers without chunks.

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


def about(family: Family) -> str:
    """One line of the first table."""
    kinds = ", ".join(f"`{kind}`" for kind in family.model_types)
    return f"| {family.name} | {kinds} | `{family.layers}` | {SIGHT[family.sight]} |"


def cell(one: Capability, check: Capabilities, reasons: list[str]) -> str:
    """One hook point of one family."""
    if not one.works:
        return f"({reasons.index(one.reason) + 1})"
    depth = max(other.n_layers for other in check.hooks if other.hook.startswith("blocks."))
    return "some" if one.hook.startswith("blocks.") and one.n_layers < depth else "yes"


def page(checks: list[Capabilities]) -> str:
    """The whole page."""
    forms = {family.name: family for family in FAMILIES}
    lines = ["| family | model types | decoder layers | what a row sees |", "|---|---|---|---|"]
    lines += [about(forms[check.family]) for check in checks]
    names = " | ".join(check.family for check in checks)
    lines += ["", f"| hook point | {names} |", "|---|" + "---|" * len(checks)]
    rows = list(zip(*(check.hooks for check in checks), strict=True))
    reasons = list(dict.fromkeys(one.reason for row in rows for one in row if not one.works))
    for row in rows:
        cells = [cell(one, check, reasons) for one, check in zip(row, checks, strict=True)]
        lines.append(f"| `{row[0].hook}` | {' | '.join(cells)} |")
    refused = "\n".join(f"- `{kind}`: {why}." for kind, why in REFUSED.items())
    why = "; ".join(f"`({number})`: {reason}" for number, reason in enumerate(reasons, 1))
    films = ", ".join(check.family for check in checks if forms[check.family].video)
    tail = TAIL.format(refused=refused, why=why, films=films)
    return HEAD + "\n".join(lines) + "\n" + tail


if __name__ == "__main__":
    PAGE.write_text(page([LMM.tiny(f.name).capabilities for f in FAMILIES if f.tiny]))
    sys.stdout.write(f"wrote {PAGE.name}: {len(FAMILIES)} families\n")
