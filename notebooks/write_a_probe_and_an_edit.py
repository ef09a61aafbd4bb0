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
# # Write a probe and an edit of your own
#
# Question: is attention *too spread out*? If heads that look at the image were made sharper, would
# the model be surer of its answer, or only more stubborn? No library has a function for it, so we
# write two things: a **probe** that measures how spread out a row of attention is, and an **edit**
# that sharpens it. Both are short functions of a value and a `Site`, and both then work like the
# built-in ones: in prefill and decoding, in batches, joined with others, saved to JSON, on a
# server.
#
# The model is the toy LMM that ships with the package.

# %%
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import vsink_interp as vi
from vsink_interp.graph import Layers

lmm = vi.LMM.toy()
scene, prompt = vi.toy.scene(seed=3), "describe the image"

# %% [markdown]
# ## A probe: the entropy of a row of attention
#
# The hook point `attn.hook_pattern` gives the pattern `batch head query key` of one layer, in each
# forward pass. Return what you want to keep; the annotation names its axes, and the library joins
# layers, prompt and decode steps. `exp(entropy)` is the number of keys that a row effectively looks
# at.


# %%
@vi.probe("attn.hook_pattern")
def keys_looked_at(pattern, site) -> Float[Tensor, "batch head query"]:  # noqa: ARG001
    """exp of the entropy of each row: 1 if it looks at one key, n if at n keys alike."""
    return torch.special.entr(pattern).sum(-1).exp()


run = lmm.generate(scene.image, prompt, keys_looked_at)
record = run.answering(keys_looked_at)
record

# %% [markdown]
# A record has named axes: `.mean("query")`, `.at(layer=3)`, `.to_pandas()`. As a picture, mean over
# the rows of the answer. **Look for** heads that look at one key (dark).

# %%
spread = record.mean("batch", "query").values.numpy()
figure, axes = plt.subplots(figsize=(4.4, 3.3), layout="constrained")
shown = axes.imshow(spread, origin="lower", cmap="viridis")
axes.set(xlabel="head", ylabel="layer", xticks=range(lmm.n_heads))
figure.colorbar(shown, label="keys looked at")
plt.show()

# %% [markdown]
# ## What a `Site` knows
#
# The second argument says where the value is from: the layer, the phase, which tokens the rows and
# keys are. Masks of any group of the notation come from it, as booleans of the right length for
# this pass. Here a second probe uses `site.keys` to ask the same of the image part of the row
# alone.


# %%
@vi.probe("attn.hook_pattern", layers="2:")
def patches_looked_at(pattern, site) -> Float[Tensor, "batch head query"]:
    """The same among the image's keys, which are made to sum to one."""
    seen = pattern * site.keys("image")[:, None, None]
    seen = seen / seen.sum(-1, keepdim=True).clamp(min=1e-9)
    return torch.special.entr(seen).sum(-1).exp()


both = lmm.generate(scene.image, prompt, keys_looked_at | patches_looked_at)
print(both)
print(both.answering(patches_looked_at).mean("batch", "query").at(layer=3))

# %% [markdown]
# ## An edit as a function
#
# An edit has the same signature and returns the new value (or None to keep it). Scores before the
# softmax, multiplied by a number above one, give a sharper pattern. `vi.Fn` puts any function at a
# hook point.


# %%
def twice(scores, site):
    """Double the scores, in layers 3 and 4."""
    return scores * 2 if site.layer in (3, 4) else None


print(lmm.generate(scene.image, prompt, vi.Fn("attn.hook_attn_scores", twice)).text)

# %% [markdown]
# ## An edit as a value
#
# A function cannot be stored or compared. A frozen dataclass can: fifteen lines, and `Sharpen`
# prints, goes into JSON, and refuses a prompt on which it could not act. `targets` names the rows
# that it changes, so the engine computes only those explicitly and leaves all others to the model's
# own fast attention.


# %%
@dataclass(frozen=True)
class Sharpen(vi.Edit):
    """Multiply the attention scores of some rows: above 1 sharper, below 1 flatter."""

    factor: float
    layers: Layers = ":"
    rows: str = "query generated"
    hook = "attn.hook_attn_scores"

    @property
    def targets(self):
        return self.rows, False

    def check(self, layout, *, generates):
        layout.check_group(self.rows, generates=generates)

    def apply(self, value, site):
        rows = site.queries(self.rows)[:, None, :, None]
        return torch.where(rows, value * self.factor, value)


edit = Sharpen(2.0, "3:5")
print(edit, edit == Sharpen(2.0, "3:5"))
print(edit | keys_looked_at)

# %% [markdown]
# ## Does it do what it says?
#
# Three checks that any edit deserves, before any result:
#
# 1. with a factor of 1 nothing changes but rounding (edited rows are computed explicitly; a graph
#    of probes alone changes no bit);
# 2. the probe sees the effect, in the right layers;
# 3. a batch gives what its samples give alone.

# %%
encoding = lmm.encode(scene.image, prompt)
unchanged = lmm.run(encoding, graph=Sharpen(1.0)).logits
torch.testing.assert_close(unchanged, lmm.run(encoding).logits, atol=1e-4, rtol=1e-4)

told = encoding.with_answer(run)
rows = list(run.answer_rows)
factors = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
measured = []
for factor in factors:
    seen = lmm.run(told, graph=Sharpen(factor, "3:5") | keys_looked_at)
    values = seen[keys_looked_at].taken("query", rows).mean("batch", "query", "head").values
    measured.append(values.numpy())
figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
for layer, colour in zip((2, 3, 4, 5), ("#8A8A8A", "#D55E00", "#0072B2", "#009E73"), strict=True):
    values = [at[layer] for at in measured]
    axes.plot(factors, values, "o-", ms=4, color=colour, label=f"layer {layer}")
axes.set(xlabel="factor (layers 3 and 4)", ylabel="keys looked at")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
plt.show()
assert measured[-1][3] < measured[2][3] < measured[0][3]  # sharper, as it says

alone = [lmm.generate(vi.toy.scene(s).image, prompt, edit).text for s in (3, 4)]
images = [vi.toy.scene(s).image for s in (3, 4)]
assert lmm.generate(images, [prompt] * 2, edit).text == alone

# %% [markdown]
# Layer 2 comes before the edit and must not move: it does not. Layer 5 comes after it and may.
#
# ## The answer to the question
#
# How sure is the model of its own (right) description: the mean log-probability of the words of
# four unedited answers, under each factor, in the layers that read the image and in the others.

# %%
where = {"layers 3 and 4, which read the image": "3:5", "layers 5 to 7": "5:8"}
stories = []
for seed in (3, 4, 6, 8):
    one = lmm.encode(vi.toy.scene(seed).image, prompt)
    answer = lmm.generate(one)
    stories.append((one.with_answer(answer), list(answer.answer_rows), answer.generated[0]))
figure, axes = plt.subplots(figsize=(6.4, 2.9), layout="constrained")
for (name, layers), colour in zip(where.items(), ("#D55E00", "#0072B2"), strict=True):
    sure = []
    for factor in factors:
        scores = []
        for given, answered, ids in stories:
            logits = lmm.run(given, graph=Sharpen(factor, layers)).logits[0, answered]
            scores.append(logits.log_softmax(-1).gather(-1, ids[:, None]).mean())
        sure.append(np.mean(scores))
    axes.plot(factors, sure, "o-", ms=4, color=colour, label=name)
axes.axvline(1, color="black", lw=0.8, ls=":")
axes.set(xlabel="factor", ylabel="log-probability of a word")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# The question had it the wrong way round. Sharper makes the model *less* sure, from the first step,
# and most in the layers that read the image. A little flatter (0.75) is a hair better, much flatter
# is worst. Attention is about as sharp as it needs to be: a negative result, in forty lines, with
# its controls.
#
# ## Keep it
#
# A saved graph names the class by its module. Keep `Sharpen` in a file that can be imported (not in
# a notebook), and `vi.EditGraph.load("graph.json")` finds it again.
#
# ## Exercises
#
# 1. Write a probe of "how far back": the mean distance in tokens between a row and its keys,
#    weighted by attention. (`site.positions` are the rows' positions.) Which layers look furthest?
# 2. Give `Sharpen` a field `keys: str = "all"`, so that only scores on a group are multiplied, and
#    compare with the built-in `vi.ScaleScores`. Why does the order of "multiply" and "softmax"
#    matter?
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="float16")
# run = lmm.generate("kitchen.jpg", "Describe the image.", Sharpen(1.5, "10:20") | keys_looked_at)
# run.answering(keys_looked_at).mean("batch", "query")
# ```
#
# Nothing else changes. A pattern over 600 keys in 32 layers is large: a probe that returns a
# reduction, as here, keeps one number for each row and head. `docs/own-edits.md` has the rest:
# edits that need sinks, that share a tensor over layers, that run on a server.
