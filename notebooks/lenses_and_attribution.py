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
# # What does the model think in the middle, and who writes the answer?
#
# Two old tools of language models, on a model with eyes. The *logit lens* reads every residual
# stream as if the model ended there, so image tokens become words laid over the image (Neo et al.
# 2024, arXiv 2410.07149). *Direct logit attribution* splits the logit of an answer into the parts
# that wrote it: heads, MLPs, and within a head the segment it read from. Both are cheap, and both
# are wrong in known ways, so we check each against an intervention.

# %%
import matplotlib.pyplot as plt
import numpy as np

import vsink_interp as vi
from vsink_interp import experiments as ex

lmm = vi.LMM.toy()
scene, question = vi.toy.scene(seed=0), "what color is the circle?"
scene

# %% [markdown]
# ## The lens over the image
#
# The top word of each image token, after four of the layers; where one word leads in most patches
# it is left blank and named above. **Look for** patches that say what they show.

# %%
lens = ex.image_lens(lmm, scene.image, "describe the image", layers=[1, 5])
lens.plot(least=0.05)

# %% [markdown]
# After layer 1 patches say *what* they show: "white", "triangle", "red", though the model was never
# asked to read image tokens as words. After layer 5 the same patches say *where* or *how many*:
# "center", "left", "five". The stream has been rewritten for other questions. On large models the
# lens is a coarse object detector, in the later layers. Either way it is *correlational*: nothing
# says that anybody uses what it shows.
#
# ## Where is one word?
#
# The probability of a given word over patches. For a word that is there and one that is not:

# %%
ex.word_lens(lmm, scene.image, "describe the image", ["white", "blue"], layers=[1, 5, 7]).plot()

# %% [markdown]
# ## When does the answer appear?
#
# The same lens on the row that writes the answer, layer by layer. **Look for** the layer at which
# the right colour takes over, and compare it with the layers in which the image is read (3 and 4,
# see [knockouts](knockouts.ipynb)).

# %%
colours = {"white": "#444444", "green": "#1EBE3C", "purple": "#9632C8", "yellow": "#D8C020"}
given = vi.probes.TokenProbability("last", tokens=tuple(colours))
run = lmm.run(scene.image, question, given)
figure, axes = plt.subplots(figsize=(6, 2.7), layout="constrained")
for word, colour in colours.items():
    axes.plot(run[given].sel(word=word).values[:, 0, 0], "o-", ms=4, color=colour, label=word)
axes.set(xlabel="after layer", ylabel="probability by the lens")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Who writes it? (direct logit attribution)
#
# With the final norm's scale held fixed, the logit difference "white" minus "green" is a sum over
# everything written to the last row's residual stream (Elhage et al. 2021). Left: per layer, what
# heads wrote, by the segment that they read it from, and the MLP. Right: single heads. The parts
# add up to the logit, which is asserted.

# %%
parts = ex.logit_attribution(lmm, scene.image, question, "white", against="green")
assert np.isclose(parts.total, parts.logit, atol=1e-3)
print("strongest heads:", [(at, head, round(float(x), 2)) for at, head, x in parts.top_heads(4)])
parts.plot()

# %% [markdown]
# **Look at** the colours of the bars: blue is read from the image directly, orange from the
# question's tokens, which had to read the image before.
#
# ## Does attribution predict what happens without the head?
#
# Attribution counts what a head writes *directly* to the output. Ablate each head at the last row
# and measure how much the logit difference really falls. On the diagonal, attribution told the
# truth.

# %%
ids = [lmm.tokenizer.convert_tokens_to_ids(word) for word in ("white", "green")]
encoding = lmm.encode(scene.image, question)


def difference(graph=None):
    logits = lmm.run(encoding, graph=graph).logits[0, -1]
    return float(logits[ids[0]] - logits[ids[1]])


plain = difference()
effect = np.array(
    [
        [
            plain - difference(vi.Ablate("attn.hook_z", layer, heads=[head], rows="last"))
            for head in range(lmm.n_heads)
        ]
        for layer in range(lmm.n_layers)
    ]
)
figure, axes = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
shown = axes.scatter(parts.head_total, effect, c=np.arange(32) // lmm.n_heads, cmap="viridis", s=28)
ends = [min(parts.head_total.min(), effect.min()), max(parts.head_total.max(), effect.max())]
axes.plot(ends, ends, color="#8A8A8A", lw=1, ls="--")
axes.set(xlabel="attribution (logits)", ylabel="fall of the difference, head ablated")
axes.spines[["top", "right"]].set_visible(False)
figure.colorbar(shown, label="layer")
plt.show()

# %% [markdown]
# The heads of layers 3 to 5 lie above the diagonal: beside what they write directly, they act
# through the MLPs behind them. One head of layer 0 (dark, top left) writes next to nothing to the
# output, and without it the answer is gone: later heads need what it wrote. Attribution ranks
# *writers*, not causes.
#
# ## Gradients: which image tokens would change the answer?
#
# A third view, first-order instead of exact: the gradient of the same logit difference with respect
# to the image tokens as they enter the model, as a map; and attention times its gradient (in the
# manner of Chefer et al. 2021), beside plain attention.

# %%
of = "logit of 'white' - 'green' at last"
entering = vi.probes.Gradient("hook_resid_pre", of=of, layers=0, rows="image")
weights = vi.probes.Pattern("last", layers="2:")
steep = vi.probes.Gradient("attn.hook_pattern", of=of, layers="2:", rows="last")
seen = lmm.run(scene.image, question, entering | weights | steep)
saliency = seen[entering].values[0, 0].norm(dim=-1)
attention = seen.of(weights, "image").values[:, 0, :, -1]  # layer head patch
relevance = (attention * seen.of(steep, "image").values[:, 0, :, -1]).clamp(min=0).mean((0, 1))
looked = attention.mean((0, 1))
maps = {"gradient": saliency, "attention": looked, "attention x gradient": relevance}
figure, panels = plt.subplots(1, 3, figsize=(8.4, 2.9), layout="constrained")
for axes, (name, values) in zip(panels, maps.items(), strict=True):
    axes.imshow(scene.image, extent=(0, 8, 8, 0), alpha=0.4)
    axes.imshow(values.reshape(8, 8), extent=(0, 8, 8, 0), cmap="YlOrRd", alpha=0.7)
    axes.set_title(name, fontsize=10)
    axes.set_axis_off()
plt.show()

# %% [markdown]
# Plain attention shows the sinks; multiplied by its gradient, what matters for this answer stays.
# That is another way of seeing that attention to sinks carries nothing
# ([masking_sinks](masking_sinks.ipynb)).
#
# ## What to remember
#
# - The lens uses the final norm on vectors that it was not made for; in early layers it shows
#   little, in the last ones the next word.
# - Attribution is exact as arithmetic and silent about indirect paths; an ablation is the check.
# - Gradients are local: a saturated softmax has small gradients and large effects.
#
# ## Exercises
#
# 1. Attribute against another wrong colour (`against="purple"`, which is in the image). Do the same
#    heads write it?
# 2. Hide the sinks (`graph=vi.HideKeys("sink & image")`) and attribute again: does any bar change
#    by more than a tenth?
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="float16")
# ex.image_lens(lmm, "kitchen.jpg", "Describe the image.", layers=[16, 24, 30]).plot(least=0.1)
# asked = "What color is the cup? One word."
# ex.logit_attribution(lmm, "kitchen.jpg", asked, "red", against="blue").plot()
# ```
#
# Words must be one token. Where a norm stands behind attention (Gemma 3), a head's part is no sum
# over keys, and attribution by segment is refused rather than approximated.
