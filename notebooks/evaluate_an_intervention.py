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
# # Does my intervention help?
#
# Papers on training-free interventions report gains of half a point. Two ways of reading "yes" out
# of an answer can differ by more. This notebook takes two, VAR (Kang et al., ICLR 2025) and
# ClearSight (arXiv 2503.13107), and asks whether they help, in the way in which such a claim ought
# to be asked: the same questions off and on, answer by answer, with an interval, a control that
# must hurt and a control that must not, and a look at what changed.
#
# The questions are the toy benchmark: scenes that the toy LMM finds hard (small, partly hidden
# objects), in the form of POPE. The toy's truth is exact; **a result on it says how to evaluate,
# not what works on large models.**

# %%
import matplotlib.pyplot as plt
import numpy as np

import vsink_interp as vi
from vsink_interp.edits import recipes
from vsink_interp.metrics import RULES, read_answer

lmm = vi.LMM.toy()
(pope,) = vi.evaluation.load_tasks(["pope"], limit=120)
one = pope.questions[0]
print(len(pope.questions), "questions; the first:", one.prompt, "->", one.truth)
one.shown().resize((192, 192), 0)

# %% [markdown]
# ## First: what counts as "yes"?
#
# POPE's own script, MME's script and lmms-eval read free answers by different rules. None is wrong;
# comparing numbers that were read by different rules is.

# %%
said = ("Yes.", "NO.", "There is no dog", "I am not sure", "a no", "yes or no")
readings = [[read_answer(text, rule) for rule in RULES] for text in said]
colour_of = {"yes": 1.0, "no": 0.0}
grid = np.array([[colour_of.get(str(read), 0.5) for read in row] for row in readings])
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
axes.imshow(grid, cmap="PuOr", vmin=-0.3, vmax=1.3, aspect="auto")
for (y, x), _ in np.ndenumerate(grid):
    axes.text(x, y, str(readings[y][x]), ha="center", va="center", fontsize=9)
axes.set_yticks(range(len(said)), said)
axes.set_xticks(range(len(RULES)), list(RULES), fontsize=8.5)
plt.show()

# %% [markdown]
# ## Second: controls
#
# An evaluation that cannot see a blind model is broken; one that "sees" a gain in an edit that does
# nothing is, too. So beside the plain model there are four arms:
#
# - **VAR**, with the paper's setting against hallucination;
# - **ClearSight**: scores of image keys up, of system keys down, in layers 1 to 3;
# - **blind**: no text row may see the image, which must hurt;
# - **nothing**: a share p = 0 is moved. It must agree on every answer.

# %%
arms = {
    "var": vi.VAR(p=0.6, rho=0.5),
    "clearsight": recipes.clearsight(layers="1:4"),
    "blind": vi.Knockout("image -> query generated"),
    "nothing": vi.VAR(p=0.0, rho=0.5),
}
found = vi.evaluate(lmm, (pope,), arms)
table = found.to_pandas()
columns = ["graph", "metric", "off", "on", "low", "high", "p", "won", "lost"]
shown = (table.split == "all") & table.metric.isin(["accuracy", "yes ratio"])
print(table[shown][columns].round(3).to_string(index=False))

# %% [markdown]
# ## Differences, not levels
#
# Each answer is compared with the plain model's answer to the *same* question; the interval comes
# from drawing *images* again and again (all questions about an image together, because they stand
# or fall together). **Look for** bars that do not touch zero.

# %%
rows = {row.graph: row for row in found.rows if row.metric == "accuracy" and row.split == "all"}
figure, axes = plt.subplots(figsize=(6.6, 2.8), layout="constrained")
for place, row in enumerate(rows.values()):
    axes.plot([row.low, row.high], [place, place], color="#8A8A8A", lw=3)
    axes.plot(row.difference, place, "o", color="#0072B2")
    axes.text(row.high + 0.01, place, f"p = {row.p:.2g}", va="center", fontsize=9)
axes.axvline(0, color="black", lw=0.8)
axes.set_yticks(range(len(rows)), rows)
axes.invert_yaxis()
axes.margins(x=0.15)
axes.set(xlabel="change in accuracy (95 %, paired bootstrap over images)")
axes.spines[["top", "right"]].set_visible(False)
plt.show()
assert rows["blind"].high < 0 and rows["nothing"].difference == 0

# %% [markdown]
# Both controls do what they must. VAR changes no answer here at all: the sinks of these heads had
# little to give. ClearSight turns eight wrong answers right and one right answer wrong, p = .04. A
# discovery? Two reasons to wait:
#
# - Four arms were tried. By Holm's rule the smallest p-values are multiplied by the number of arms
#   that are left: .04 becomes .12.
# - Look at the *yes ratio* in the table. The plain model says yes to 31 % of questions of which
#   half are true; with louder image keys it says yes more often. A shift of the threshold between
#   yes and no gains accuracy in a shy model and loses it in a bold one. POPE cannot tell the two
#   apart; a description, or F1 with the yes ratio beside it, can.
#
# ## How many questions would it take?
#
# McNemar's test looks only at the questions whose answer flipped. If a share f of the answers flips
# and helps twice as often as it harms, how many questions are needed for p < 0.05 four times in
# five? A simulation of the exact test:

# %%
from scipy.stats import binomtest

rng = np.random.default_rng(0)
counts = (100, 300, 1000, 3000)
figure, axes = plt.subplots(figsize=(6.2, 2.9), layout="constrained")
for share, colour in ((0.02, "#0072B2"), (0.05, "#D55E00"), (0.1, "#009E73")):
    power = []
    for count in counts:
        flips = rng.binomial(count, share, 60)
        won = rng.binomial(flips, 2 / 3)
        p = [binomtest(int(w), int(n)).pvalue if n else 1 for w, n in zip(won, flips, strict=True)]
        power.append(np.mean(np.array(p) < 0.05))
    axes.plot(counts, power, "o-", ms=4, color=colour, label=f"{share:.0%} flip: +{share / 3:.1%}")
axes.axhline(0.8, color="black", ls=":", lw=1)
axes.set(xscale="log", xlabel="questions", ylabel="chance to see it", ylim=(0, 1.03))
axes.set_xticks(counts, [f"{count:,}" for count in counts], minor=False)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# **Look at** the blue curve: a gain of .7 points is seen by 1,000 questions in about a quarter of
# tries, by 3,000 in three quarters. POPE's 9,000 are enough for such a gain; MMVP's 300 are enough
# for one of several points. (Published for VAR on LLaVA-1.5-7B: POPE accuracy 84.76 to 85.87.)
#
# ## Third: look at what changed
#
# A number that moves by chance and a number that moves for a reason look alike. Some answers that
# ClearSight flipped, with their images:

# %%
every = found.tasks["pope"].flips("clearsight")
flips = sorted(every, key=lambda flip: flip[3])[:4]  # the answer that became wrong first
print(f"{len(every)} of {len(pope.questions)} answers flipped")
figure, panels = plt.subplots(1, max(len(flips), 2), figsize=(9, 2.7), layout="constrained")
for axes in panels:
    axes.set_axis_off()
for axes, (question, off, on, gain) in zip(panels, flips, strict=False):
    axes.imshow(question.shown())
    verdict = "right" if gain > 0 else "wrong"
    axes.set_title(f"{question.prompt}\n{off} -> {on}: became {verdict}", fontsize=7.5)
plt.show()

# %% [markdown]
# All of these went from no to yes, the wrong one too: an orange *square* was asked for where there
# is an orange circle.
#
# ## What to remember
#
# - Name the rule that reads answers, and count what it could not read.
# - Compare paired answers; resample images, not questions.
# - Ship two controls: one that must hurt, one that must do nothing.
# - Try several interventions and report all of them: with 20 tries, one is "significant" by luck
#   (Holm's correction is in `docs/evaluation.md`).
#
# ## Exercises
#
# 1. Sweep p = 0.2, 0.4, 0.6, 0.8, 1.0 as five arms. Choose the best by accuracy, then evaluate it
#    on *other* scenes. Is the gain still there?
# 2. Evaluate two edits and their composition (`vi.VAR(rho=0.5) | vi.HideKeys("sink & image")`).
#    What do you expect VAR to do when there are no sinks left?
#
# ## The same on LLaVA-1.5-7B
#
# ```py
# lmm = vi.LMM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="bfloat16")
# tasks = vi.evaluation.load_tasks(["pope", "mme", "chair"], data="benchmarks/")
# found = vi.evaluate(lmm, tasks, arms, log="answers.jsonl", batch_size=16)
# print(found.table())
# ```
#
# On the command line, with a page that shows every changed answer beside its image: `vsink eval
# --model ... --tasks pope --data benchmarks/ --graph var --graph blind --out results/`.
