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
# # The sink dimensions of a model that nobody has looked at
#
# A few tokens draw attention that seems to do nothing: *attention sinks*. Kang et al. (ICLR 2025,
# arXiv 2503.03321) find them without looking at attention at all. The residual stream of a sink has
# a huge value in a few fixed coordinates, the *sink dimensions*: 1415 and 2533 of 4,096 in
# LLaVA-1.5-7B. The same coordinates mark the first token of any text, so they can be found from a
# text prompt, and then tell which *image* tokens are sinks.
#
# The paper prints the coordinates of five models. This notebook finds them in a model that is in no
# table, by hand and then with the library, asks how sure we may be, and looks at what such tokens
# are good for. The model is the toy LMM. **Its sinks were seeded in training** (a loss pulled phi
# of `<s>` and of a few empty patches up): that they are found shows that the method works, and
# nothing about 7B models.

# %%
import matplotlib.pyplot as plt

import vsink_interp as vi
from vsink_interp import experiments as ex

lmm = vi.LMM.toy()
scene, prompt = vi.toy.scene(seed=3), "describe the image"
lmm

# %% [markdown]
# ## By hand: one token, one layer
#
# Take the residual stream that enters a middle layer, divide each token by its root mean square
# (RMS), and look at the first token. If all coordinates were alike each would be about 1; none can
# exceed the square root of the width, here 9.8. **Look for** bars that leave the others behind.

# %%
resid = vi.probes.Resid("all", layers=4, at="pre")
x = lmm.run(scene.image, prompt, resid)[resid].values[0, 0]  # token d_model
spectrum = (x / x.pow(2).mean(-1, keepdim=True).sqrt()).abs().numpy()

figure, axes = plt.subplots(figsize=(8, 2.4), layout="constrained")
axes.bar(range(lmm.d_model), spectrum[0], width=1.0, color=vi.plot.COLOURS["bos"])
axes.set(xlabel="coordinate of the residual stream", ylabel="|x| / rms(x)")
axes.set_title(f"first token; largest at {spectrum[0].argsort()[-2:]}", loc="left")
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Two coordinates of 96, 6 and 8, hold half of its squared norm. In LLaVA-1.5-7B the two peaks are
# 33 (coordinate 1415) and 54 (2533), read off the paper's figure 2: wider models have higher peaks,
# because the bound grows with the square root of the width.
#
# ## The paper's figure 2: the same coordinates in image tokens
#
# If the first token and some image tokens stand out in the *same* coordinates, they are the same
# kind of thing. `ex.spectrum` picks the first token, the image token with the highest phi, and an
# ordinary one.

# %%
ex.spectrum(lmm, scene.image, prompt).plot()

# %% [markdown]
# Middle: an empty patch that stands out in coordinate 8 as the first token does (a visual sink need
# not have all of its coordinates; phi takes the largest). Right: an ordinary patch, which does not.
#
# ## With the library, and how sure it is
#
# `lmm.sink_report` does this over several prompts and layers, and keeps a dimension if it holds a
# tenth of the squared norm of the first token everywhere. It also proposes tau, the threshold on
# the sink value
#
#     phi(x) = max over d in D_sink of |x[d]| / rms(x)                 (equation A-3)
#
# and says where the threshold comes from. The paper's tau is 20 for all models; at a width of 96
# that would be out of reach, and in other large models it may cut through a tail, so it has to be
# looked at.

# %%
report = lmm.sink_report
print(report)
assert set(report.dims) == {*map(int, spectrum[0].argsort()[-2:])}  # the same as by hand

# %% [markdown]
# ## Look at the histogram before you trust a threshold
#
# phi of every token of eight scenes and their descriptions, at the middle layers. **Look for** an
# empty valley: with one, tau is a fact about the model; without one, it is a choice. In
# LLaVA-1.5-7B almost no token lies between 10 and 30 (figure 3a).

# %%
cases = ex.Cases.scenes(8)
values = ex.sink_values(lmm, cases)
print(f"{values.sinks_per_case:.1f} visual sinks an image; no phi between {report.gap}")
values.plot()

# %% [markdown]
# ## Where along the depth do sinks arise?
#
# The paper's figure 8: no sink enters layers 0 and 1 of LLaVA-1.5-7B; about 7 of 576 image tokens
# are sinks from layer 2 on. Each line is a token of one prompt; the dashed line is tau.

# %%
value = vi.probes.SinkValue()
run = lmm.run(scene.image, prompt, value)
phi = run[value].values[:, 0].numpy()  # layer token
image = run.layout.mask("image")[0].numpy()
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
high = phi[4] >= lmm.sinks.tau
kinds = (("other tokens", ~high, "#BBBBBB"), ("visual sinks", high & image, "#D55E00"))
for name, chosen, colour in (*kinds, ("first token", high & ~image, "black")):
    lines = axes.plot(phi[:, chosen], color=colour, lw=0.9)
    lines[0].set_label(f"{name} ({chosen.sum()})")
axes.axhline(lmm.sinks.tau, color="black", ls="--", lw=1)
axes.set(xlabel="layer that the token enters", ylabel="sink value phi")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, fontsize=9)
plt.show()
assert high[0] and high.sum() > 1 and not (phi[:2] >= lmm.sinks.tau).any()

# %% [markdown]
# ## Which patches are they?
#
# `run.sinks(layer)` lists them with their boxes in pixels. In the paper more than 90 % of visual
# sinks lie on background (table 6).

# %%
sinks = run.sinks(layer=4)
empty = ~scene.patch_masks().any(0)
figure, axes = plt.subplots(figsize=(3, 3), layout="constrained")
axes.imshow(scene.image)
for one in sinks:
    left, upper, right, lower = one.box
    corner = (left - 0.5, upper - 0.5)
    axes.add_patch(plt.Rectangle(corner, right - left, lower - upper, fill=False))
on_background = sum(empty[one.patch] for one in sinks)
axes.set_title(f"{on_background} of {len(sinks)} on background", fontsize=10)
axes.set_axis_off()
plt.show()
print(sinks.topk(3))

# %% [markdown]
# ## Do they draw attention? (figure 3a)
#
# Each point is an image token in one layer: its phi, and the attention that text rows give it. phi
# was computed without any attention weight; **look for** the cluster to the right of tau and high.
# The blue points that are as high, on the left, are objects that a word is about: attention alone
# cannot tell the two apart, phi can.

# %%
vi.plot.phi_scatter(values)

# %% [markdown]
# ## And what do they do with it? (figure 3c)
#
# The contribution of a token to a row is the norm of what it adds there, the attention weight times
# the token's value through the output projection. In the paper visual sinks contribute about 0.8e-4
# and random image tokens 8.5e-4, a tenth.

# %%
added = ex.contributions(lmm, cases)
attended, contributed = added.attention[0] / added.attention[1], added.norm[0] / added.norm[1]
print(f"a sink gets {attended:.0f} times the attention of another image token,")
print(f"and adds {contributed:.2f} times as much to the residual stream")
assert attended > 5 and contributed < 1
added.plot()

# %% [markdown]
# Much attention, little effect: that is what makes a sink, and why its attention can be moved
# elsewhere ([image_heads_and_var](image_heads_and_var.ipynb)) or removed
# ([masking_sinks](masking_sinks.ipynb)).
#
# ## Are the dimensions the *cause* of the attention?
#
# The report above asked: with the sink dimensions of the first token set to zero, or to ordinary
# values, does its attention fall more than in controls? Read the line "its share of attention":
# here it falls from 0.45 to 0.35, and the control that only shrinks the token's norm does as much.
# **No causal check passes**, and the report says so. phi tells you where sinks are; that these
# coordinates alone make them sinks is a stronger claim, which this model does not support.
#
# ## A model without sinks
#
# Random weights have no sinks, and the search says so instead of returning the largest of nothing.

# %%
try:
    vi.find_sink_dims(vi.LMM.tiny("Qwen2-VL"))
except vi.CapabilityError as error:
    print(error)

# %% [markdown]
# ## Exercises
#
# 1. Pretend that you only know coordinate 6: set `lmm.sinks = vi.SinkDims((6,), tau=report.tau)`
#    and draw the histogram again. Which tokens are lost? (`vi.verify` compares a published entry
#    with what is found.)
# 2. The threshold is a choice of yours if the valley is not empty. For tau from 2 to 6, plot the
#    number of visual sinks an image (`(values.image_phi >= tau).sum()`): how wide is the plateau?
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="float16")
# report = lmm.sink_report                    # a few forward passes; expect (1415, 2533)
# print(vi.verify(lmm, vi.catalogue.find_entry("llava-hf/llava-1.5-7b-hf")).agrees)
# cases = ex.Cases(images, ("Describe the image.",) * len(images), max_new_tokens=64)
# ex.sink_values(lmm, cases, layers=[2, 10, 20]).plot()
# ex.contributions(lmm, cases).plot()
# ```
#
# `vsink reproduce A.fig3a --model llava-hf/llava-1.5-7b-hf --data coco/` does it for a folder, with
# a verdict; `vsink sinks --model ...` prints the report.
