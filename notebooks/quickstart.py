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
# # Quickstart
#
# From an image to its attention sinks, and to an answer changed by an intervention. Everything runs
# offline on the toy LMM that ships with the package, in about a minute; the same lines run on
# LLaVA-1.5-7B. The two papers behind it: Kang et al., ICLR 2025 (visual attention sinks, VAR) and
# Kaduri et al., CVPR 2025 (attention by token type, knockout).

# %%
import os

import numpy as np
from jaxtyping import Float
from torch import Tensor

import vsink_interp as vi
from vsink_interp import experiments as ex

name = os.environ.get("VSINK_MODEL")  # a folder or a Hub id, to use another model
lmm = vi.LMM.from_pretrained(name) if name else vi.LMM.toy()
lmm

# %% [markdown]
# ## An image with known contents
# A toy scene comes with exact object masks, so answers can be scored.

# %%
scene = vi.toy.scene(seed=0)
prompt = "describe the image"
print(scene.caption)
scene.image.resize((256, 256), resample=0)

# %% [markdown]
# ## An answer, and what every token is

# %%
run = lmm.generate(scene.image, prompt)
print(run.text, run.layout, sep="\n")
assert run.layout.mask("image").sum() == run.layout.images[0][0].size

# %% [markdown]
# ## Which words of the prompt does the answer attend to?
# Text tokens only; hover over one for its share of the attention.

# %%
vi.plot.token_strengths(ex.token_strengths(lmm, scene.image, prompt))

# %% [markdown]
# ## Sink dimensions
# A few coordinates of the residual stream in which the first token has very large values. They are
# found automatically and checked causally: set to zero, the first token loses its attention.

# %%
print(lmm.sink_report)
vi.plot.spectrum(ex.spectrum(lmm, scene.image, prompt))

# %% [markdown]
# ## Sinks: tokens whose phi reaches the threshold
# Look at the histogram before you trust a threshold.

# %%
cases = ex.Cases.scenes(4)
phi = ex.sink_values(lmm, cases)
assert phi.phi.max() <= lmm.d_model**0.5  # phi is bounded by the square root of the width
print(f"{phi.sinks_per_case:.1f} visual sinks per image and layer")
vi.plot.phi_histogram(phi)

# %% [markdown]
# ## What does each word attend to, before and after VAR?
# Visual Attention Redistribution moves the share `p` of every sink's attention to the other image
# tokens, in image-centric heads. All rows show the words of the unedited answer.

# %%
maps = ex.word_maps(lmm, scene.image, prompt, graph=vi.VAR(p=0.6, rho=0.5))
print(maps.answer, maps.edited_answer, sep="\n")
assert maps.before.shape == maps.after.shape
vi.plot.overlay(maps)

# %% [markdown]
# ## Which heads attend to image tokens other than sinks?

# %%
vi.plot.heads(ex.image_heads(lmm, cases))

# %% [markdown]
# ## Attention by segment over layers

# %%
shares = ex.segment_mass(lmm, cases)
assert np.allclose(shares.mean.sum(1), 1, atol=1e-4)
vi.plot.segment_mass(shares, ex.three_way(lmm, cases))

# %% [markdown]
# ## Knockout from layer l on
# Cut a flow from layer l on and measure what is left of the description: where a curve rises, the
# information has already passed.

# %%
sweep = ex.knockout_sweep(lmm, cases)
assert sweep.f1.shape == (3, len(sweep.layers), len(cases))
vi.plot.knockout_sweep(sweep)

# %% [markdown]
# ## Query-token-only generation
# Generated tokens cannot see the image: the answer uses what the query tokens read from it.

# %%
blind = lmm.generate(scene.image, prompt, vi.Knockout("image -> generated"))
print(run.text, blind.text, sep="\n")

# %% [markdown]
# ## Your own probe, joined with an edit
# A probe is a function of a value and a `Site`; its return annotation names the axes of the record.


# %%
@vi.probe("attn.hook_pattern")
def image_mass(pattern, site) -> Float[Tensor, "batch head query"]:
    """Share of each row's attention that lands on the image, from 0 to 1."""
    return (pattern * site.keys("image")[:, None, None]).sum(-1)


graph = vi.Knockout("image -> query generated", "4:") | image_mass
cut = lmm.generate(scene.image, prompt, graph)
print(graph, cut.text, sep="\n")
record = cut[image_mass].mean("batch", "head")
assert record.at(query=cut.answer_rows[0]).values[4:].max() == 0  # nothing flows from layer 4 on
record.at(query=cut.answer_rows[0]).values

# %% [markdown]
# ## Next
# `vsink demo` writes all of this into one HTML file, over more scenes. `docs/papers.md` links every
# equation to its function.
#
# ## Exercises
#
# 1. Let only layers 4 and later see the image (`vi.Knockout("image -> query generated", ":4")`).
#    Is the description still right? Find the latest layer from which it is.
# 2. Change `image_mass` so that sinks do not count (`site.keys("image & ~sink")`). Which layers
#    lose most of their attention to the image?
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="float16")
# maps = ex.word_maps(lmm, "kitchen.jpg", "Describe the image.", graph=vi.VAR(p=0.6, rho=0.5))
# vi.plot.overlay(maps)
# ```
