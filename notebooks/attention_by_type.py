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
# # Where does a generated token's attention go?
#
# Kaduri et al. (CVPR 2025, arXiv 2411.17491, figure 1) split the attention of every generated token
# into three: image tokens, query tokens, generated tokens. Their headline: query tokens are under 5
# % of the tokens and hold more than 60 % of the attention in most layers. Kang et al. (ICLR 2025)
# would object that much of *any* attention goes to sinks. Both are right, and a finer split shows
# why.
#
# The model is the toy LMM, **whose sinks were seeded in training**.

# %%
import matplotlib.pyplot as plt
import numpy as np

import vsink_interp as vi
from vsink_interp import experiments as ex

lmm = vi.LMM.toy()
cases = ex.Cases.scenes(8)
print(lmm.encode(cases.images[0], cases.prompts[0]).layout)

# %% [markdown]
# ## The measure (equation B-5)
#
# For the row that predicts generated token t, in layer l: the mean over heads of the attention
# summed over a group of keys. The groups must split all tokens, so the shares add up to one. In the
# paper's code "query tokens" are *all prompt tokens but the image's*: also the first token and the
# words "user :". That split is `three_way`:

# %%
three = ex.three_way(lmm, cases)
print(dict(zip(three.groups, three.count.round(3), strict=True)), "of the tokens")
assert np.allclose(three.mean.sum(1), 1, atol=1e-4)
three.plot()

# %% [markdown]
# **Look at** the orange curve: the prompt without the image is a tenth of the tokens and holds
# about half of the attention, as in the paper. (The bands are the 95 % interval of the mean, a
# bootstrap over scenes; the paper's are one standard deviation over pairs of image and token, here
# `three.std`.)
#
# ## The first token is not a query
#
# The five segments keep the first token, the words before the image and the query apart. **Look
# for** what the orange curve was made of.

# %%
five = ex.segment_mass(lmm, cases)
vi.plot.segment_mass(five)

# %% [markdown]
# In layers 2 to 7 the query proper has less than a tenth. What counted as "query" is nearly all the
# first token: an attention sink that every head can rest on. So the 60 % must not be read as "the
# answer reads the question"; the knockouts ([knockouts](knockouts.ipynb)) show what it reads.
#
# ## And not all image tokens are alike
#
# Split the image into its visual sinks and the rest (which tokens are sinks is decided by phi,
# layer by layer; see [sink_dimensions](sink_dimensions.ipynb)).

# %%
groups = ("bos", "sink & image", "image & ~sink", "system", "query", "generated")
fine = ex.segment_mass(lmm, cases, groups=groups)
colours = ("#595959", "#D55E00", "#0072B2", "#CC79A7", "#E69F00", "#009E73")
figure, axes = plt.subplots(figsize=(7.4, 3), layout="constrained")
base = np.zeros(lmm.n_layers)
for share, group, colour in zip(fine.mean.T, groups, colours, strict=True):
    axes.bar(range(lmm.n_layers), share, bottom=base, color=colour, label=group, width=0.85)
    base = base + share
axes.set(xlabel="layer", ylabel="share of attention", ylim=(0, 1))
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
sinks = fine.mean[:, :2].sum(1)
print(f"sinks of both kinds: {sinks[2:].min():.2f} to {sinks[2:].max():.2f} in layers 2 to 7")
assert sinks[2:].min() > 0.5

# %% [markdown]
# Grey and dark orange together are sinks: more than half of the attention from layer 2 on. The blue
# part, image tokens with something to say, peaks in layers 3 and 4: the layers in which the image
# is read.
#
# ## It changes along the answer
#
# A mean over tokens hides that an answer has words of grammar and words of content. One answer,
# layer 3, token by token.

# %%
scene = vi.toy.scene(seed=3)
mass = vi.probes.SegmentMass(groups=groups)
run = lmm.generate(scene.image, "describe the image", mass)
rows = run.answering(mass).at(layer=3).mean("head").values[0].nan_to_num().numpy()  # token group
words = [run.words[0][row + 1] for row in run.answer_rows]
figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
base = np.zeros(len(rows))
for share, group, colour in zip(rows.T, groups, colours, strict=True):
    axes.bar(range(len(rows)), share, bottom=base, color=colour, label=group)
    base = base + share
axes.set_xticks(range(len(rows)), words, rotation=55, ha="right")
axes.set(ylabel="share of attention, layer 3", ylim=(0, 1))
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Blue where an object's colour or shape is written. Where a comma, "and" or "on" is, it is nearly
# all the first token and the words before: a head with nothing to find rests on a sink. Averages
# over words mix the two, and depend on how many words of each kind an answer has.
#
# ## Does it depend on the question?
#
# A one-word answer has one row. The same image, three questions, the rows that predict the answers:

# %%
asked = ("describe the image", "what color is the cross?", "how many objects are there?")
figure, panels = plt.subplots(1, 3, figsize=(10, 2.7), sharey=True, layout="constrained")
for axes, question in zip(panels, asked, strict=True):
    one = lmm.generate(scene.image, question, mass)
    shares = one.answering(mass).values.nan_to_num().mean((1, 2, 3)).numpy()
    base = np.zeros(lmm.n_layers)
    for share, colour in zip(shares.T, colours, strict=True):
        axes.bar(range(lmm.n_layers), share, bottom=base, color=colour, width=0.85)
        base = base + share
    text = one.text if len(one.text) < 20 else one.text[:16] + " ..."
    axes.set_title(f"{question}\n{text}", fontsize=9)
    axes.set_xlabel("layer")
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("share of attention")
plt.show()

# %% [markdown]
# One-word answers look at the question in every layer (orange), and at the objects in more layers
# than a description does: a share of attention belongs to a prompt, not to a model.
#
# ## What to remember
#
# - A split into types is only as good as its types: say where the first token and the sinks are
#   counted.
# - Attention by type is where attention *goes*. What would be missing without it is a knockout's
#   question.
#
# ## Exercises
#
# 1. The share per *token* of a group is `fine.mean / fine.count` (the groups with sinks have no
#    fixed number). For the five segments: which has the most attention per token in layer 4?
# 2. Split by head instead of averaging: `lmm.generate(..., mass)[mass]` has an axis `head`. Is
#    there a head of layer 3 that never leaves the sinks?
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="float16")
# cases = ex.Cases(images, ("describe the image",) * len(images), max_new_tokens=300, batch_size=4)
# vi.plot.segment_mass(ex.segment_mass(lmm, cases), ex.three_way(lmm, cases))
# lmm.sinks = vi.SinkDims((1415, 2533), tau=20.0)
# ex.segment_mass(lmm, cases, groups=groups).plot()
# ```
#
# The paper takes 80 COCO images. Memory: the probe keeps one number per layer, head, row and group,
# so long answers are no problem. `vsink reproduce B.fig1 --model ... --data coco/`.
