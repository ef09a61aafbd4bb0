# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring a model that nobody has ported
#
# A new multimodal model comes out every week. Question: what does it take to open one, and how do
# you *know* that the hooks sit where you think they sit? A tap on the wrong module, or a grid of
# image tokens that is transposed, gives figures that look fine.
#
# We pretend that Qwen2-VL were unknown. The model here is a tiny one with random weights in
# transformers' own class: enough for every check in this notebook, because each compares numbers
# with numbers. (With random weights, nothing it *says* means anything.)

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import vsink_interp as vi
from vsink_interp.families import FAMILIES, infer
from vsink_interp.families.form import LLAMA_LAYER, PACKED_LAYER, Tap
from vsink_interp.families.tiny import build

config, processor = next(f for f in FAMILIES if f.name == "Qwen2-VL").tiny()
hf_model = build(config, "eager")
print(type(hf_model).__name__, "with layers", hf_model.config.text_config.num_hidden_layers)

# %% [markdown]
# ## What is found without any help
#
# A model of an unknown `model_type` is looked at: where are the decoder's layers, the output
# projection, the vision tower, the projector? If they have usual names, a *family* is inferred: one
# filled form that says where things are and computes nothing.

# %%
guess = infer(hf_model, processor)
for name in ("decoder", "head", "vision_layers", "projector", "marker", "template"):
    print(f"{name:14}", repr(getattr(guess, name)))

# %% [markdown]
# ## What works, hook point by hook point
#
# The self-check reads every hook point, overwrites it and looks whether anything changes, in the
# prefill and in a decode step. `print(lmm.capabilities)` is the table; as a figure, for the decoder
# and for the vision side. **Look for** red.

# %%
guessed = vi.LMM(hf_model, processor, family=guess, check=False)
found = guessed.capabilities


def draw(axes, capabilities, title):
    marks = {True: 1.0, False: 0.0, None: 0.5}
    rows = [one for one in capabilities.hooks if "norm.hook_out" not in one.hook]
    grid = [[marks[one.read], marks[one.write], marks[one.decode]] for one in rows]
    axes.imshow(grid, cmap="RdYlGn", vmin=-0.15, vmax=1.15, aspect="auto")
    axes.set_xticks(range(3), ["read", "write", "decode"], fontsize=8)
    names = [one.hook.replace("blocks.{layer}.", "").replace("vision_", "") for one in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_title(title, fontsize=9.5)


figure, axes = plt.subplots(figsize=(4.4, 4.6), layout="constrained")
draw(axes, found, "inferred")
plt.show()
print("logits without edits equal plain transformers, bit by bit:", found.exact)
print(*(f"{hook}: {why[:100]}..." for hook, why in list(found.failed.items())[:1]), sep="\n")

# %% [markdown]
# The decoder is open: its layers are built like LLaMA's. The vision side is not (this tower takes
# all images as *one* row of patches, without a batch axis), and hooks that fail are not offered,
# rather than offered and wrong. Yellow: does not occur in a decode step.
#
# ## What is silently missing: where a token lies in the image
#
# Nothing in a model says how its image tokens are laid out. So an inferred family calls an image
# one row of tokens:

# %%
image = Image.new("RGB", (168, 112), "grey")
print(guessed.encode(image, "describe please").layout)

# %% [markdown]
# Twelve tokens for an image of 168 x 112 pixels. Are they 3 x 4 or 4 x 3, row by row or column by
# column? The processor's output has a field `image_grid_thw`, here (1, 6, 8) patches, and a
# projector that merges 2 x 2 of them. So: 3 rows of 4. Or so we think.
#
# ## Test the grid: paint a patch, see which token moves
#
# For each guess of the grid: paint the square of pixels that a token is said to cover, and measure
# how much *each* token entering the language model changes. If the guess is right, the painted
# token changes most. Every row of the picture is a painted square, every column a token. **Look
# for** the diagonal.


# %%
def spans_of(rows_first):
    """A `spans` function: the grid of each image, and the box of pixels that it covers."""

    def spans(config, processor, images, inputs):  # noqa: ARG001 (others need the config)
        merge = processor.image_processor.merge_size
        grids = (inputs["image_grid_thw"][:, 1:] // merge).tolist()
        grids = [tuple(grid) if rows_first else tuple(grid[::-1]) for grid in grids]
        return tuple(
            vi.ImageSpan(grid, (0.0, 0.0, float(one.width), float(one.height)))
            for one, grid in zip(images, grids, strict=True)
        )

    return spans


entering = vi.probes.Resid("image", layers=0, at="pre")
figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.5), layout="constrained")
right = []
for axes, rows_first in zip(panels, (False, True), strict=True):
    family = replace(guess, spans=spans_of(rows_first))
    lmm = vi.LMM(hf_model, processor, family=family, check=False)
    run = lmm.run(image, "describe please", entering)
    span, plain = run.layout.images[0][0], run[entering].values[0, 0]
    moved = np.zeros((span.size, span.size))
    for token in range(span.size):
        painted = image.copy()
        painted.paste("red", tuple(map(int, span.patch_box(token))))
        changed = lmm.run(painted, "describe please", entering)[entering].values[0, 0]
        moved[token] = (changed - plain).norm(dim=-1)
    right.append((moved.argmax(1) == np.arange(span.size)).mean())
    axes.imshow(moved / moved.max(1, keepdims=True), cmap="viridis")
    axes.set_title(f"{span.grid[0]} rows of {span.grid[1]}: {right[-1]:.0%} right", fontsize=10)
    axes.set(xlabel="token that changes", ylabel="square that was painted")
plt.show()
assert right == [right[0], 1.0] and right[0] < 0.8

# %% [markdown]
# The second guess is right, the first is not, and a heat map drawn with the first would have looked
# just as plausible.
#
# ## Fill in the form
#
# What was missing, as a family: a change of six fields. The prompt's template and what stands
# around an image come from the checkpoint's chat template; `PACKED_LAYER` says that this tower's
# values have no batch axis.

# %%
mine = replace(
    guess,
    name="Mine",
    inferred=False,
    spans=spans_of(rows_first=True),
    projected="q d",
    vision_taps=PACKED_LAYER,
    placeholder="<|vision_start|><|image_pad|><|vision_end|>",
    template="<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
)
lmm = vi.LMM(hf_model, processor, family=mine, check=False)
figure, panels = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
draw(panels[0], found, "inferred")
draw(panels[1], lmm.capabilities, "filled in")
plt.show()
assert lmm.capabilities.passed
lmm.encode(image, "describe please")

# %% [markdown]
# ## Do values mean what their names say?
#
# The self-check says that a hook acts. Three identities say that it is the *right* value: the
# residual stream against transformers' own `hidden_states`; the parts of a layer add up to its
# output; the pattern against `output_attentions`. Beside ours, a family with one mistake: its
# `hook_attn_out` is the norm behind attention. It can be read and written, so the self-check is
# content. **Look for** the curve that gives it away.

# %%
wrong = {**LLAMA_LAYER, "hook_attn_out": Tap("post_attention_layernorm", "output")}
mistaken = vi.LMM(hf_model, processor, family=replace(mine, layer_taps=wrong), check=False)
names = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
parts, pattern = [vi.probes.Activation(name) for name in names], vi.probes.Pattern("all")
graph = pattern
for probe in parts:
    graph = graph | probe
encoding = lmm.encode(image, "describe please")
with torch.no_grad():
    plain = hf_model(**encoding.inputs, output_hidden_states=True, output_attentions=True)


def errors_of(model):
    """The largest difference in each layer, for each identity."""
    run = model.run(encoding, graph=graph)
    before, attn, mlp, after = (run[probe].values for probe in parts)
    compared = {
        "stream = hidden_states": (before, plain.hidden_states),
        "pattern = attentions": (run[pattern].values, plain.attentions),
        "parts add up": (before + attn + mlp, after),
    }
    return {
        name: [float((ours[i] - theirs[i]).abs().max()) for i in range(lmm.n_layers)]
        for name, (ours, theirs) in compared.items()
    }


errors = errors_of(lmm)
figure, axes = plt.subplots(figsize=(6.6, 2.8), layout="constrained")
for (name, values), style in zip(errors.items(), ("o-", "s--", "^:"), strict=True):
    axes.plot(np.maximum(values, 1e-9), style, ms=5, label=name)
broken = errors_of(mistaken)["parts add up"]
axes.plot(broken, "x-", color="#D55E00", label="parts add up, with the mistake")
axes.set(yscale="log", ylim=(3e-10, 30), xlabel="layer", ylabel="largest difference")
axes.set_xticks(range(lmm.n_layers))
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, fontsize=9, loc="center right")
plt.show()
assert max(map(max, errors.values())) < 1e-5 < 1e-2 < min(broken)

# %% [markdown]
# Ours are at the level of rounding (drawn at 1e-9). The mistake is off by far more than that: a
# wrong tap that no error message would ever have told of. Now everything in the other notebooks
# works on this model:

# %%
cut = vi.Knockout("image -> query generated", "2:")
print(lmm.generate(image, "describe please", cut, max_new_tokens=3))

# %% [markdown]
# ## Into the package
#
# A family is one file in `vsink_interp/families/` that defines such a value; there is no registry.
# Tests of all families find it there: logits, residuals, patterns, knockouts against a hand-made
# mask, VAR, batches, half precision, and the painted squares above (`docs/adding-a-family.md`).
#
# ## Exercises
#
# 1. Break it on purpose: `replace(mine, projector="model.visual.blocks.0")`. Which check notices,
#    and what does it say?
# 2. Open another tiny model as unknown (`"InternVL"`, with tiles). What does `infer` get right, and
#    what would `spans` have to return for an image of six tiles and a thumbnail? (`vi.View` is one
#    of them.)
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# from transformers import AutoModelForImageTextToText, AutoProcessor
# name = "llava-hf/llava-1.5-7b-hf"                     # or your new model's folder
# hf_model = AutoModelForImageTextToText.from_pretrained(name, dtype="float16", device_map="cuda")
# processor = AutoProcessor.from_pretrained(name)
# print(infer(hf_model, processor))                     # as if it were unknown
# lmm = vi.LMM(hf_model, processor)                     # its own family: known
# print(lmm.capabilities)
# ```
#
# `vsink check-model DIR_OR_ID` prints the same table. With real weights, also ask it something and
# read the answer: a wrong template shows there first.
