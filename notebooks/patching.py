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
# # Which activations carry the answer?
#
# Attention says where a model looks; patching says what it *uses*. Run the model on an image for
# which it says "white". Run it again on the same image with one thing changed, so that it says
# "green". Copy activations of the first run into the second, one place at a time, and see which
# copies bring "white" back. (Activation patching or causal tracing: Meng et al. 2022, arXiv
# 2202.05262; Zhang and Nanda 2024, arXiv 2309.16042.)
#
# We follow one colour through the toy LMM: from a patch of the image, through the query, to the
# answer.

# %%
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import vsink_interp as vi
from vsink_interp import experiments as ex

lmm = vi.LMM.toy()
scene, question = vi.toy.scene(seed=0), "what color is the circle?"

# %% [markdown]
# ## A minimal pair
#
# Two unrelated images differ everywhere, and patching would find all of it. Better to change one
# thing: the circle is repainted, and nothing else.

# %%
mask = scene.masks[[thing.name for thing in scene.objects].index("white circle")]
painted = np.array(scene.image)
painted[mask] = (30, 190, 60)
clean, corrupted = (scene.image, question), (Image.fromarray(painted), question)
figure, panels = plt.subplots(1, 2, figsize=(4.6, 2.6), layout="constrained")
for axes, (shown, _), name in zip(panels, (clean, corrupted), ("clean", "corrupted"), strict=True):
    axes.imshow(shown)
    axes.set_title(f"{name}: {lmm.generate(shown, question, max_new_tokens=1).text}", fontsize=10)
    axes.set_axis_off()
plt.show()

# %% [markdown]
# ## Layer by segment
#
# The residual stream entering each layer is copied from the clean run, one segment at a time. 1
# means that the logit difference "white" minus "green" is as in the clean run, 0 as in the
# corrupted one. **Look for** where the two bright regions meet: the layer in which the colour moves
# from the image to the query.

# %%
segments = ex.patching(lmm, clean, corrupted, segments=["image", "query", "last"])
print(f"{segments.token} - {segments.against}: {segments.clean:.1f} and {segments.corrupted:.1f}")
segments.plot()

# %% [markdown]
# Up to layer 2 the image has it all. In between it passes, and at the end the last token, which
# writes the answer, has it. A segment that recovers everything is *sufficient* at that layer;
# nothing is said about other places that hold it too.
#
# ## Which patches? (position by position)
#
# The same with one image token at a time, 64 copies for each layer. The circle is one or two
# patches; **look for** whether those alone bring the answer back.

# %%
layers = (0, 5)
traced = ex.patching(lmm, clean, corrupted, by="position", rows="image", layers=layers)
figure, panels = plt.subplots(1, 2, figsize=(6.4, 2.9), layout="constrained")
for axes, layer, recovered in zip(panels, layers, traced.recovered, strict=True):
    axes.imshow(scene.image, extent=(0, 8, 8, 0), alpha=0.35)
    heat = recovered.reshape(8, 8)
    shown = axes.imshow(heat, extent=(0, 8, 8, 0), cmap="PRGn", vmin=-1, vmax=1, alpha=0.75)
    axes.set_title(f"entering layer {layer}", fontsize=9.5)
    axes.set_axis_off()
figure.colorbar(shown, ax=panels, label="share recovered")
plt.show()
best = int(traced.recovered[0].argmax())
assert scene.patch_masks()[[o.name for o in scene.objects].index("white circle")][best]

# %% [markdown]
# Only the patch of the circle, of 64: the colour is not spread over the image, though image tokens
# attend to each other. By layer 5 the same patch is useless: everyone who needed the colour has
# read it.
#
# ## Which token of the question?

# %%
positions = ex.patching(lmm, clean, corrupted, by="position", rows="query", layers=(3, 4, 5, 6))
positions.plot()

# %% [markdown]
# **Look for** the rows that light up: there is one. The word "circle" never carries the colour; the
# last token, which writes the answer, looks at the patch itself. In language models facts about a
# subject are often gathered *at* the subject first (Meng et al. 2022); this one reads directly. A
# captioning prompt would be another story ([knockouts](knockouts.ipynb)).
#
# ## Which heads?
#
# One head's output (`attn.hook_z`) at a time, at all rows of the query.

# %%
heads = ex.patching(lmm, clean, corrupted, by="head", rows="query")
strongest = np.argsort(-heads.recovered.ravel())[:4]
print("strongest (layer, head):", [divmod(int(i), lmm.n_heads) for i in strongest])
heads.plot()

# %% [markdown]
# ## Do those heads suffice together?
#
# A sweep patches one place at a time, and effects need not add. So patch the best 1, 2, 4, ...
# heads at once and compare with the sum of their single effects.

# %%
run = lmm.run(*clean, vi.probes.Activation("attn.hook_z"))
order = np.argsort(-heads.recovered.ravel())
counts, together, summed = (1, 2, 3, 4, 6, 8, 12), [], []
ids = [lmm.tokenizer.convert_tokens_to_ids(word) for word in (heads.token, heads.against)]
for count in counts:
    graph = vi.EditGraph()
    for layer in range(lmm.n_layers):
        chosen = [int(i % lmm.n_heads) for i in order[:count] if i // lmm.n_heads == layer]
        if chosen:
            graph = graph | vi.Patch("attn.hook_z", run, layers=layer, heads=chosen, rows="query")
    logits = lmm.run(*corrupted, graph).logits[0, -1]
    difference = float(logits[ids[0]] - logits[ids[1]])
    together.append((difference - heads.corrupted) / (heads.clean - heads.corrupted))
    summed.append(heads.recovered.ravel()[order[:count]].sum())
figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
axes.plot(counts, together, "o-", color="#0072B2", label="patched together")
axes.plot(counts, summed, "s--", color="#8A8A8A", label="sum of single patches")
axes.axhline(1, color="black", lw=0.8, ls=":")
axes.set(xlabel="heads patched, best first (of 32)", ylabel="share recovered")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# Together the heads do *more* than the sum of their single effects: a head that says "white" alone
# is outvoted by those that still say "green". Ranking heads by single patches underrates each of a
# group that agrees.
#
# ## The other direction
#
# Copying clean into corrupted asks what is *sufficient* (denoising). Copying corrupted into clean
# asks what is *necessary* (noising): 1 now means that the clean answer is destroyed. They agree
# where there is one road, and differ where there are several.

# %%
noised = ex.patching(lmm, corrupted, clean, segments=["image", "query", "last"])
figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
for place, colour in ((0, "#0072B2"), (2, "#E69F00")):
    name = segments.names[place]
    axes.plot(segments.layers, segments.recovered[:, place], color=colour, label=name)
    axes.plot(noised.layers, noised.recovered[:, place], color=colour, ls="--")
axes.set(xlabel="layer that the tokens enter", ylabel="share")
axes.set_title("solid: sufficient; dashed: necessary", fontsize=9.5, loc="left")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What to remember
#
# - Build the pair so that one thing differs; then a bright cell means that thing.
# - The measure is a logit *difference*, on a scale from corrupted (0) to clean (1). A probability
#   saturates.
# - Single patches are not additive, and sufficiency is not necessity. Report which you measured.
#
# ## Exercises
#
# 1. Repaint the *triangle* instead and ask about the circle. All cells should be 0: are they? (A
#    control that is cheap and often left out.)
# 2. Patch `"hook_mlp_out"` by segment (`hook="hook_mlp_out"`). Do MLPs of the image carry the
#    colour, or only its attention?
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="float16")
# clean, corrupted = ((name, "What color is the car?") for name in ("red.jpg", "blue.jpg"))
# ex.patching(lmm, clean, corrupted, layers=range(0, 32, 2)).plot()
# ex.patching(lmm, clean, corrupted, by="head", layers=range(10, 20)).plot()      # 320 runs
# ```
#
# `token=` and `against=` take words of one token. Every cell is a run: 576 image positions in one
# layer are 576 runs, so patch groups (`segments=["image[0]", ...]`) or boxes first.
