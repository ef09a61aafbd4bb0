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
# # Does a word point at its object?
#
# If attention maps say where a model looks, the map of the word "cross" should peak on the cross.
# Kaduri et al. (CVPR 2025, arXiv 2411.17491, figures 6 and 7) test that: take objects that the
# answer names, find the patch with the most attention, and count a hit if it lies in the object's
# mask. On InternVL2-76B the hit rate peaks near 73 % in the middle layers (30 to 40 of 80) and is
# far lower in early and late ones.
#
# We measure it layer by layer on the toy LMM, where masks are exact, and ask two questions that the
# paper leaves open: how much would chance hit, and how much do attention sinks spoil? **The toy's
# sinks were seeded and two of its heads were trained to find objects**, so a perfect rate in some
# layer is by design; what to watch is the rest.

# %%
import matplotlib.pyplot as plt
import numpy as np

import vsink_interp as vi
from vsink_interp import experiments as ex

lmm = vi.LMM.toy()
located = ex.ObjectMasks.scenes(6)
print(len(located), "objects with masks, e.g.", located[1])

# %% [markdown]
# ## One object by hand
#
# The row that predicts "cross" in "a red cross", layer by layer: attention to the image (mean over
# heads), upsampled to pixels; white is the object's mask, the star the peak. **Look for** the
# layers in which the star is inside.

# %%
scene = vi.toy.scene(seed=3)
maps = ex.word_maps(lmm, scene.image, "describe the image", graph=vi.EditGraph())
mask = scene.masks[[thing.name for thing in scene.objects].index("red cross")]
word = maps.words.index("cross")
figure, panels = plt.subplots(1, 6, figsize=(11, 2.2), layout="constrained")
for axes, layer in zip(panels, range(1, 7), strict=True):
    heat = maps.by_layer[layer, word].reshape(8, 8)
    axes.imshow(heat, extent=(0, 64, 64, 0), interpolation="bilinear", cmap="magma")
    axes.contour(mask, levels=[0.5], colors="white", linewidths=1)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    axes.plot(column * 8 + 4, row * 8 + 4, "*", color="cyan", ms=11, mec="black")
    axes.set_title(f"layer {layer}", fontsize=9)
    axes.set_axis_off()
plt.show()

# %% [markdown]
# ## All objects (figure 7)
#
# `ex.localisation` generates the answers, finds the tokens that name each object, and measures the
# peak of every layer, once over all image tokens and once with a layer's visual sinks left out. A
# hit may miss the mask by one image token (the paper allows 40 pixels, about one token there). The
# dashed line is what a random pixel would hit.

# %%
found = ex.localisation(lmm, located)
print(found)
found.plot()

# %% [markdown]
# **Look at** the two curves where they part. With all image tokens, words point at their objects in
# layers 3 and 4 and hardly above chance elsewhere. Without sinks, layers 5 and 6 point at the
# objects too: the information is there, under a larger peak that is always in the same place. A
# paper that reports "attention does not localise in late layers" may be reporting its sinks.
# (Bands: 95 % Wilson interval; objects of one image are not independent, so they are a little too
# narrow.)
#
# ## How far off is a miss?
#
# A rate hides distances. Each column is a layer, each dot an object: how far the peak lies from its
# mask, in pixels, with sinks (left) and without.

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 2.9), sharey=True, layout="constrained")
jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(found.located))
for axes, key, distances in zip(panels, found.keys, found.distance, strict=True):
    for place, layer in enumerate(found.layers):
        colour = "#D55E00" if "~" in key else "#0072B2"
        axes.plot(layer + jitter, distances[place], ".", color=colour, alpha=0.6)
    axes.axhline(found.tolerances.mean(), color="black", ls="--", lw=1)
    axes.set_title(f"keys: {key}", loc="left", fontsize=10)
    axes.set(xlabel="layer")
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("distance from the mask (pixels)")
plt.show()

# %% [markdown]
# ## Choices that change the number
#
# The paper's code for this figure was not released; some choices had to be guessed. The same peaks
# under other choices: a hit must be on the mask (`within(0)`), or the *token's own* row is read
# instead of the row that predicts it.

# %%
own_row = ex.localisation(lmm, located, row="token", keys="image")
versions = {
    "row that predicts, within a token": found.rate[0],
    "row that predicts, on the mask": found.within(0).rate[0],
    "the token's own row, within a token": own_row.rate[0],
}
figure, axes = plt.subplots(figsize=(6.6, 3), layout="constrained")
for (name, rate), style in zip(versions.items(), ("o-", "s--", "^:"), strict=True):
    axes.plot(found.layers, rate, style, ms=5, label=name)
axes.axhline(found.chance, color="#8A8A8A", ls="--", lw=1)
axes.set(xlabel="layer", ylabel="share of objects hit", ylim=(-0.02, 1.05))
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
plt.show()
assert found.rate[0, 3] > 0.9  # layer 3, where the row predicts the word

# %% [markdown]
# Here the choice of row matters little: the row of a word's own token still looks at the object, in
# the toy. Do not rely on it: in other models it may have gone on to the next word. The strict mask
# costs most where peaks are near misses (layer 2).
#
# ## Does VAR help words to point?
#
# Moving attention from sinks to the rest of the image should help exactly where sinks hide the
# object. `graph=` puts any edit under the measurement.

# %%
var = ex.localisation(lmm, located, keys="image", graph=vi.VAR(p=0.6, rho=0.2))
figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
axes.plot(found.layers, found.rate[0], "o-", color="#0072B2", label="plain")
axes.plot(found.layers, var.rate[0], "s--", color="#009E73", label="VAR, p = 0.6, rho = 0.2")
axes.plot(found.layers, found.rate[1], "^:", color="#D55E00", label="plain, sinks left out")
axes.set(xlabel="layer", ylabel="share of objects hit", ylim=(-0.02, 1.05))
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
plt.show()

# %% [markdown]
# It does not: the two curves lie on each other. VAR acts in heads that look at the image *already*,
# and there the object has the peak anyway. Where sinks hide the object (layers 5 and 6), most heads
# fail the test of the ratio, and a peak only moves when a non-sink overtakes the sink. The dotted
# curve is what leaving the sinks out of the *measurement* gives.
#
# ## What to remember
#
# - Report chance: a large object is hit by luck, and a tolerance makes it larger.
# - Report the row, the heads and the keys. With and without sinks may be different stories.
# - A peak is a coarse summary. For overlap of the whole map with the mask see
#   `vsink_interp.metrics`.
#
# ## Exercises
#
# 1. Which objects are missed in layer 5 with all image tokens, and where do the peaks lie instead?
#    (`found.peaks[0, 5]`, and `found.plot(layer=5)`.)
# 2. Keep only objects that need direct access to the image, as the paper does: `only_direct=True`.
#    What does the toy say, and why? (See [knockouts](knockouts.ipynb).)
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="float16")
# located = [ex.ObjectMasks(image, "describe the image", name, mask) for image, name, mask in yours]
# found = ex.localisation(lmm, located, only_direct=True, log="peaks.jsonl")
# print(found); found.plot()
# ```
#
# Masks may come from COCO's annotations (`vsink reproduce B.fig7 --model ... --data coco/`) or from
# a segmentation model. Answers are generated once; all layers are measured in the same pass.
