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
# # Run on a server: what crosses the wire?
#
# A 76-billion-parameter model does not fit on a laptop. [NDIF](https://ndif.us) hosts large models
# and runs interventions on them: you send the experiment, the weights stay there, numbers come
# back. Question: what exactly is sent, what comes back, how large is it, and is it *the same* as a
# local run?
#
# To stay offline, we start a server of the same protocol on this machine. It is another process,
# which cannot import `vsink_interp`: as on NDIF, all that it knows of our edits is what the request
# tells it.
#
# That server is a file of the repository's tests, and not in the installed package. If you have the
# package alone, run this notebook from a folder inside a clone of the repository; or, with an NDIF
# key, take `vi.LMM.from_pretrained(name, remote=True)` for `far` below.

# %%
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt

import vsink_interp as vi
from vsink_interp.toy import weights_dir

folders = [Path(vi.__file__).parents[1], Path.cwd(), *Path.cwd().parents]
servers = [folder / "tests" / "remote" / "server.py" for folder in folders]
script = next((path for path in servers if path.exists()), None)
assert script, "needs tests/remote/server.py: run this notebook inside a clone of vsink_interp"

room = Path(tempfile.mkdtemp())
nursery = subprocess.Popen(
    [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)
nursery.stdin.write(json.dumps([str(room), [str(weights_dir)], None]) + "\n")
nursery.stdin.flush()
number = int(nursery.stdout.readline())
while not (room / "ready").exists():
    time.sleep(0.05)


def sizes_alone(line):
    """What is said of each request: here how much will come back, without job numbers."""
    if "come back" in line:
        print(line)


server = vi.Server("http://127.0.0.1:" + (room / "port").read_text(), watch=sizes_alone)

# %% [markdown]
# ## A model without weights
#
# `remote=` opens the structure of the model alone: every parameter is on the `meta` device, which
# holds no numbers. Beside it, the same model with its weights, to compare with.

# %%
far = vi.LMM.from_pretrained(weights_dir, remote=server)
near = vi.LMM.toy()
far.sinks = near.sinks  # finding them takes several runs: give them, if they are known
print(far)
print("weights here:", {weight.device.type for weight in far.hf_model.parameters()})

# %% [markdown]
# ## The same run, there and here
#
# Attention maps and sink values under an edit. The graph is recorded as data (which torch functions
# on which tensors, at which hook points), and sent. **Look for** a difference between the two rows
# of maps: there should be none.

# %%
scene, prompt = vi.toy.scene(seed=3), "describe the image"
graph = vi.VAR(p=0.6, rho=0.5) | vi.probes.AttentionMaps(layers=[3, 5]) | vi.probes.SinkValue()
there = far.generate(scene.image, prompt, graph, max_new_tokens=12)
here = near.generate(scene.image, prompt, graph, max_new_tokens=12)
print("there:", there.text)
print("here: ", here.text)
difference = max(
    float((there.records[name].values - record.values).nan_to_num().abs().max())
    for name, record in here.records.items()
)
print("logits and records agree to 1e-5:", difference < 1e-5)
assert there.text == here.text and (there.logits - here.logits).abs().max() < 1e-4

figure, panels = plt.subplots(2, 5, figsize=(8.6, 3.7), layout="constrained")
for row, (name, run) in enumerate({"there": there, "here": here}.items()):
    maps = run.of(run.answering(vi.probes.AttentionMaps), "image").mean("layer").values[0]
    for axes, at in zip(panels[row], (1, 2, 5, 6, 9), strict=True):
        axes.imshow(maps[at].reshape(8, 8), cmap="YlOrRd", vmin=0, vmax=0.3)
        axes.set_title(run.words[0][run.answer_rows[at] + 1], fontsize=9)
        axes.set(xticks=[], yticks=[])
    panels[row][0].set_ylabel(name)
plt.show()

# %% [markdown]
# How much will come back is said before anything is sent: a run on a server should hold no
# surprise.
#
# ## Choose probes that reduce
#
# What comes back is what the probes keep. For LLaVA-1.5-7B (32 layers, 32 heads, 576 image tokens,
# 100 words), the size of some records in fp32, by arithmetic. The dotted line is the 64 MB above
# which a run is refused unless you say `allow_large=True`.

# %%
layers, heads, words, image, keys = 32, 32, 100, 576, 720
sizes = {
    "Pattern (every head, every key)": layers * heads * words * keys,
    "AttentionMaps (mean over heads)": layers * words * image,
    "SegmentMass (5 groups)": layers * heads * words * 5,
    "SinkValue": layers * (keys + words),
    "logits of the answer": words * 32_000,
}
figure, axes = plt.subplots(figsize=(7.2, 2.5), layout="constrained")
bars = axes.barh(list(sizes), [4e-6 * size for size in sizes.values()], color="#0072B2")
axes.bar_label(bars, [f"{4e-6 * size:.3g} MB" for size in sizes.values()], padding=4, fontsize=9)
axes.axvline(64, color="black", ls=":", lw=1)
axes.invert_yaxis()
axes.set(xscale="log", xlim=(0.05, 3000), xlabel="MB, before compression")
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# A probe is code that runs *there*: reduce there, and bring home a number for each layer rather
# than a pattern.
#
# ## What cannot run there is refused here
#
# Before anything is sent: full patterns, and edits that need more than a graph of torch functions.

# %%
for refused in (vi.probes.Pattern("all"), vi.DropKeys("image")):
    try:
        far.generate(scene.image, prompt, refused, max_new_tokens=4)
    except vi.CapabilityError as error:
        print(f"{type(refused).__name__}: {str(error)[:150]} ...")

# %% [markdown]
# ## Several runs, one round trip
#
# A queue makes each request slow, so put what belongs together into a session. Here three knockouts
# (as in [knockouts](knockouts.ipynb)), and how much the answers look at the image under each.

# %%
flows = ("image -> query", "image -> generated", "image -> query generated")
mass = vi.probes.SegmentMass(groups=("image",))
with far.session() as session:
    for flow in flows:
        session.generate(scene.image, prompt, vi.Knockout(flow, "2:") | mass, max_new_tokens=12)
figure, axes = plt.subplots(figsize=(6, 2.7), layout="constrained")
for flow, run in zip(flows, session.runs, strict=True):
    print(f"{flow:26}", run.text)
    seen = run.answering(mass).mean("batch", "head", "query", "segment").values
    axes.plot(seen, "o-", ms=4, label=flow)
axes.set(xlabel="layer", ylabel="attention to the image")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# ## A job to come back for
#
# `remote="job"` sends and does not wait. A job can be saved to a file and collected by another
# process, tomorrow.

# %%
job = far.generate(scene.image, prompt, vi.HideKeys("sink & image"), max_new_tokens=6, remote="job")
job.save("job.json")
(run,) = vi.Job.load("job.json").collect(far)
print(run.text)

# %%
os.kill(number, signal.SIGKILL)  # the server of this notebook
nursery.communicate()
print("server ended")

# %% [markdown]
# ## What to remember
#
# - The graph is the experiment: the same value runs here and there.
# - Keys are read from nnsight's configuration (`nnsight login`) or `NDIF_API_KEY`; they are in no
#   result and no saved job.
# - `UnreachableError`: try again. `RemoteError`: the job failed there, its traceback is in the
#   message. `CapabilityError`: nothing was sent.
#
# ## Exercises
#
# 1. Write a probe with an `if` on the values of a tensor and send it (before the server is ended).
#    What does the error advise?
# 2. Run `vi.run_dataset(far, samples, mass, folder="rows", chunk=4)` over eight scenes, kill the
#    server after the first chunk, start it again, and call it once more. How many chunks are sent
#    the second time?
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", remote=True)  # weights stay there
# lmm.sinks = vi.SinkDims((1415, 2533), tau=20.0)
# graph = vi.VAR(rho=0.5) | vi.probes.SegmentMass()
# run = lmm.generate("kitchen.jpg", "Describe the image.", graph)
# ```
#
# `vsink remote models` lists what is hosted now, `vsink remote status` compares package versions.
# Nothing of this package has been run on the hosted service itself; the real server's software, on
# one machine, is part of the tests (`docs/remote.md`).
