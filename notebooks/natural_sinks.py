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
# # Natural sinks: a study in twenty minutes
#
# Some image tokens draw much of the text's attention and say little: *visual attention sinks* (Kang
# et al., ICLR 2025). Do they arise by themselves, where, and does the model need them? Here the
# question is put to a real model of a laptop's size: SmolLM2-135M and DINOv2-small, joined by a
# projector. No loss of its training speaks of sinks.
#
# `make small` (or `vsink small install`) fetches it. **Where it is not installed, the cells below
# run on the toy LMM, whose sinks were trained in on purpose: they then show how to measure, and are
# no evidence.** The full study, over more scenes: `docs/natural-sinks.md`.

# %%
import numpy as np

import vsink_interp as vi
from vsink_interp import experiments as ex

try:
    lmm, many = vi.LMM.small(), 16
except vi.errors.CapabilityError as error:
    lmm, many = vi.LMM.toy(), 2
    print(f"Not evidence: the toy LMM stands in. {error}")
scenes = [vi.toy.scene(seed) for seed in range(200, 200 + many)]
cases = ex.Cases.scenes(many, first_seed=200)
lmm

# %% [markdown]
# ## 1. What is a sink?
# A token whose residual stream is massive in the model's sink dimensions. They are found from the
# first token of texts; the threshold tau is a gap in the histogram of phi.

# %%
print(lmm.sink_report)

# %% [markdown]
# ## 2. At which layers are image tokens sinks?

# %%
phi = vi.probes.SinkValue("image")
run = lmm.run([one.image for one in scenes], ["describe the image"] * many, phi)
is_sink = run[phi].values >= lmm.sinks.tau  # [layer batch token]
by_layer = is_sink.float().sum(-1).mean(1)
print("sinks a scene entering each layer:", *(f"{count:.1f}" for count in by_layer))
middle = int(by_layer[lmm.n_layers // 2 :].argmax()) + lmm.n_layers // 2

# %% [markdown]
# ## 3. Where in the image?
# On background: compared with the share of background among all patches.

# %%
span = run.layout.images[0][0]
free = np.stack([~one.patch_masks(span.grid).any(0) for one in scenes])
sinks = is_sink[middle].numpy()
print(f"entering layer {middle}: {sinks.sum(-1).mean():.1f} sinks a scene")
print(f"on background: {(sinks & free).sum() / max(sinks.sum(), 1):.2f} of sinks, ", end="")
print(f"{free.mean():.2f} of all patches")

# %% [markdown]
# ## 4. Does it matter what stands before the image?
# The small LMM's template puts one token before it. `chat=False` leaves a prompt as it is; a
# tokenizer that writes a first token by itself still does, so the number before the image is shown.

# %%
own = lmm.encode(scenes[0].image, "describe the image").inputs["input_ids"][0, :1]
first = lmm.tokenizer.decode(own)
for before in (first, "", f"{first}user\n"):
    encoding = lmm.encode(scenes[0].image, f"{before}<image>describe the image\n", chat=False)
    found = lmm.run(encoding, graph=phi)[phi].values[:, 0] >= lmm.sinks.tau
    ahead = int(encoding.layout.mask("image")[0].nonzero()[0])
    print(f"{ahead} tokens before the image: {int(found[middle].sum())} sinks at layer {middle}")

# %% [markdown]
# ## 5. They draw attention (fig. 3a)

# %%
vi.plot.phi_histogram(ex.sink_values(lmm, cases, layers=[middle]))

# %% [markdown]
# ## 6. Does the answer need them? (fig. 3b)
# Hide them from all text, in all layers, and as a control as many random image tokens; as a second
# control, which the paper does not have, as many random *background* tokens. Scenes with fewer of
# either than sinks have no such control, and are left out.


# %%
def hidden(pool):
    """Object F1 of each caption with as many tokens of a pool hidden as the scene has sinks."""
    rng, scores = np.random.default_rng(0), []
    for one, mine, places in zip(kept, sinks[enough], pool[enough], strict=True):
        picked = rng.permutation(np.flatnonzero(places))[: int(mine.sum())] + image_at
        graph = vi.HideKeys(tuple(picked.tolist())) if picked.size else None
        told = lmm.generate(one.image, "describe the image", graph, max_new_tokens=40).text
        read, true = map(vi.toy.language.parse_objects, (told, one.caption))
        scores.append(vi.toy.language.object_f1(read, true))
    return scores


image_at = int(run.layout.mask("image")[0].nonzero()[0])
controls = {"random image": ~sinks, "background": free & ~sinks}
enough = np.all([pool.sum(-1) >= sinks.sum(-1) for pool in controls.values()], 0)
kept = [one for one, whole in zip(scenes, enough, strict=True) if whole]
pools = {"nothing": sinks & False, "sinks": sinks} | controls
arms = {name: hidden(pool) for name, pool in pools.items()}
print(f"{len(kept)} of {many} scenes have both controls")
for name, scores in arms.items():
    difference = vi.metrics.paired_difference(arms["sinks"], scores)
    print(f"{name:14} F1 {np.mean(scores):.3f}   less sinks' {difference}")

# %% [markdown]
# ## 7. From which layer on is the image no longer needed? (fig. 2f of Kaduri et al.)

# %%
layers = sorted({lmm.n_layers * part // 10 for part in (0, 5, 6, 7, 8)})
sweep = ex.knockout_sweep(lmm, cases, flows=["image -> query generated"], layers=layers)
vi.plot.knockout_sweep(sweep)

# %% [markdown]
# ## 8. Does moving their attention elsewhere help? (VAR)

# %%
off = np.mean(cases.f1(ex.answers(lmm, cases)))
for mode in ("paper", "released-code"):
    graph = vi.VAR(p=0.6, rho=0.5) if mode == "paper" else vi.VAR(p=0.4, rho=0.5, mode=mode)
    told = ex.answers(lmm, cases, graph)
    print(f"{mode:14} F1 {np.mean(cases.f1(told)):.3f}, off {off:.3f}")

# %% [markdown]
# ## What to conclude
# With this few scenes the intervals are wide: the page of the study has more, question by question,
# with every figure that fell against the papers. Change `many`, the layer, or the model above.
#
# ## Exercises
#
# 1. Hide the sinks in the layers before `middle` alone, and in those from there on alone
#    (`vi.HideKeys(tokens, layers=...)`): is either half needed more?
# 2. Open the other form, `vi.LMM.small("aligned")`: the LM as it comes, which cannot describe. Are
#    there more sinks or fewer, and at the same places?
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="float16")
# print(lmm.sink_report)
# cases = ex.Cases(images, ("Describe the image.",) * len(images), max_new_tokens=128, batch_size=4)
# ex.sink_ablation(lmm, cases, draws=3).plot()
# ```
#
# Its objects are not known as those of a scene are: `ex.sink_ablation` compares with the plain
# answer, and `vsink reproduce A.fig3b-pope` with POPE's.
