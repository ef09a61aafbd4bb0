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
# # What does a word look at?
#
# A model writes "a red cross". When it wrote *cross*, did it look at the cross? The answer depends
# on the layer that you ask, and most attention figures never say which one they show. Here we look
# at all of them: first at maps, then at numbers, then by hand.
#
# The map of a word is what Kang et al. (ICLR 2025, arXiv 2503.03321) draw in their figure 1: the
# attention of the word's row to every image token, averaged over heads, laid over the image. Their
# finding is that the same few *irrelevant* patches light up for every word. We will see both:
# layers where a word finds its object, and layers where all words look at the same empty patches.
#
# The model is the toy LMM that ships with the package: a real LLaVA of a million parameters,
# trained on drawn scenes whose objects are known to the pixel. **Its sinks were seeded in
# training**, so what you see is the mechanism, not evidence about large models.

# %%
import matplotlib.pyplot as plt
import numpy as np

import vsink_interp as vi
from vsink_interp import experiments as ex

lmm = vi.LMM.toy()
scene = vi.toy.scene(seed=3)
scene

# %% [markdown]
# ## The answer, and which row wrote which word
#
# A decoder's row *predicts the next token*: the row that wrote "cross" is the one standing on
# "red". Everything below uses that row; taking the word's own row instead is the most common
# off-by-one of attention figures. `run.answer_rows` are the rows that predict the answer, the first
# of them being the last token of the prompt.

# %%
prompt = "describe the image"
run = lmm.generate(scene.image, prompt, vi.probes.AttentionMaps() | vi.probes.SinkValue())
print(run.text)
print(run.layout)
print("rows that predict the answer:", run.answer_rows)

# %% [markdown]
# ## Figure 1 of the paper
#
# The paper averages layers 10 to 12 of 32 (the authors' answer in their tracker; the text does not
# say). Scaled to eight layers, those are layers 2 and 3. Blue boxes are visual sinks: image tokens
# whose sink value phi reaches the threshold tau (equations of docs/papers.md).
#
# **Look for** two kinds of marks. The shape words have one dark patch of their own: the object. And
# all panels have the same row of boxes: the sinks, faintly warm here, because this average contains
# a layer that looks at them and one that does not.

# %%
maps = ex.word_maps(lmm, scene.image, prompt, graph=vi.EditGraph())
maps.plot(most=6)

# %% [markdown]
# ## Taken apart by layer
#
# The same word, one layer at a time. **Look for** the change between layers 3, 4 and 5.

# %%
layers, word = (1, 2, 3, 4, 5), maps.words.index("cross")
figure, panels = plt.subplots(1, len(layers), figsize=(11, 2.5), layout="constrained")
for axes, layer in zip(panels, layers, strict=True):
    axes.imshow(maps.by_layer[layer, word].reshape(8, 8), vmin=0, vmax=0.3, cmap="YlOrRd")
    for patch in np.flatnonzero(maps.sinks_by_layer[layer]):
        axes.plot(patch % 8, patch // 8, "s", ms=13, mfc="none", mec="#0058B0")
    axes.set(title=f"layer {layer}", xticks=[], yticks=[])
panels[0].set_ylabel("'cross'")
plt.show()

# %% [markdown]
# Layer 2 looks at the sinks, layer 3 at one patch, layer 4 at both, layer 5 at the sinks again. The
# one patch of layer 3 should be the red cross: we have its mask, so we need not judge by eye.
#
# ## In numbers, for every object
#
# Of the attention that an object's word spends on the image, how much lands on the object, on
# sinks, and elsewhere? Bars are means over the five objects that the answer names.

# %%
on_object, named = scene.patch_masks(), [thing.name.split() for thing in scene.objects]
rows = [
    next(i for i in range(1, len(maps.words)) if [*maps.words[i - 1 : i + 1]] == pair)
    for pair in named
]
shares = np.array(
    [
        [
            [seen[on_object[i]].sum(), seen[sinks].sum(), seen.sum()]
            for i, seen in enumerate(maps.by_layer[layer, rows])
        ]
        for layer, sinks in enumerate(maps.sinks_by_layer)
    ]
).mean(1)
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
places, colours = np.arange(lmm.n_layers), vi.plot.COLOURS
axes.bar(places, shares[:, 0], color=colours["generated"], label="the object that it names")
axes.bar(places, shares[:, 1], bottom=shares[:, 0], color=colours["sink"], label="visual sinks")
rest = shares[:, 2] - shares[:, 0] - shares[:, 1]
axes.bar(places, rest, bottom=shares[:, :2].sum(1), color="#BBBBBB", label="elsewhere")
axes.set(xlabel="layer", ylabel="share of the row's attention")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
assert shares[3, 0] > 0.4 > 0.05 > shares[5, 0]  # layer 3 finds the object, layer 5 does not
plt.show()

# %% [markdown]
# In layer 3 nearly all of it is on the object; in layers 2 and 5 to 7 nearly all of it is on sinks.
# A figure "averaged over all layers" would show a blur of both and support either story.
#
# ## Do different words look at the same patches?
#
# This is the paper's observation, as a number. For two words, the cosine of their maps: 1 if they
# look at the same patches in the same proportions, 0 if at disjoint ones. **Look for** colour off
# the diagonal.

# %%
figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.9), layout="constrained")
labels = [maps.words[row] for row in rows]
for axes, layer in zip(panels, (3, 5), strict=True):
    unit = maps.by_layer[layer, rows]
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    shown = axes.imshow(unit @ unit.T, vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), [" ".join(pair) for pair in named])
    axes.set_title(f"layer {layer}", loc="left")
figure.colorbar(shown, ax=panels, label="cosine of two maps")
plt.show()

# %% [markdown]
# Layer 3: each word has its own map. Layer 5: one map for all words, which is figure 1's finding.
# The model was not distracted, though: the answer is right. What attention to sinks does, and what
# it does not, is the subject of [sink_dimensions](sink_dimensions.ipynb) and
# [masking_sinks](masking_sinks.ipynb).
#
# ## By head
#
# A mean over heads hides who does the work. `probes.Pattern` records every head; `run.of(record,
# "image")` selects the image's keys.

# %%
pattern = vi.probes.Pattern()
heads = lmm.generate(scene.image, prompt, pattern)
to_image = heads.of(heads.answering(pattern), "image").values[:, 0]  # layer head row patch
words = ex.answer_words(lmm, heads)
on_own = np.mean(
    [
        to_image[:, :, list(words[row].rows)].mean(2)[..., on_object[i]].sum(-1).numpy()
        for i, row in enumerate(rows)
    ],
    0,
)
figure, axes = plt.subplots(figsize=(4.6, 3.2), layout="constrained")
shown = axes.imshow(on_own, vmin=0, vmax=1, cmap="viridis", origin="lower")
axes.set(xlabel="head", ylabel="layer", xticks=range(lmm.n_heads))
figure.colorbar(shown, label="attention on the named object")
layer, head = np.unravel_index(on_own.argmax(), on_own.shape)
print(f"layer {layer}, head {head}: {on_own.max():.2f} of its attention is on the object named")
plt.show()

# %% [markdown]
# A few heads of layers 3 and 4 put nearly all of their attention on the object that the next word
# names (the toy was trained to have such heads; in large models they are rarer and have to be
# searched for).
#
# ## Look around yourself
#
# The viewer shows all of this at once: click a word, choose a layer with the slider, point at a
# patch to see who looks at it. It is one offline HTML file; `.save("attention.html")` keeps it.

# %%
vi.viewer.look(lmm, scene.image, prompt, heads=[3])

# %% [markdown]
# ## What to remember
#
# - The row of a word is the row that *predicts* it.
# - Say which layers and heads a map averages; a mean over all of them shows no layer that exists.
# - Attention is not contribution: a patch may draw attention and add nothing
#   ([sink_dimensions](sink_dimensions.ipynb), last figure).
#
# ## Exercises
#
# 1. The map of the function word "a" before an object: does layer 3 already look at the object that
#    is to be named, one token ahead? Compare `maps.by_layer[3]` at the "a" before "red" with the
#    mask of the cross.
# 2. Ask "what color is the cross?" instead. The answer is one word, so the only rows that can look
#    are those of the question. Which row, in which layer, looks at the cross? (Record
#    `probes.AttentionMaps("query")`.)
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="float16")
# lmm.sinks = vi.SinkDims((1415, 2533), tau=20.0)          # the paper's, or let lmm.sinks find them
# maps = ex.word_maps(lmm, "kitchen.jpg", "Describe the image.", graph=vi.EditGraph())
# maps.plot()                                              # layers 10 to 12 by default
# vi.viewer.look(lmm, "kitchen.jpg", "Describe the image.", heads="10:13").save("kitchen.html")
# ```
#
# Grids are 24 x 24, so a patch is 14 pixels of the resized image; words of several tokens are
# averaged over the rows that predict them. On the command line: `vsink view --model
# llava-hf/llava-1.5-7b-hf --image kitchen.jpg --prompt "Describe the image." --out kitchen.html`.
