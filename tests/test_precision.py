"""Every edit and probe in fp32, bf16 and fp16, beside the same by full eager attention.

In fp32 logits are the same to 1e-5, in half precision no further from float64 than eager's own.

*Eager's own* is attention as transformers writes it, over all rows, with the node applied to what
it computes in half precision: keys repeated, the mask added, the pattern rounded to the model's
precision before anything uses it. The exact values are the same in float64, softmax included.

Rounding may also turn a decision round, which token is a sink or which head looks at the image: an
error of another kind, and as likely in either. Here tau lies in a gap of phi and VAR selects all
heads, so that none is near.
"""

import math
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers.models.llama import modeling_llama

import vsink_interp as vi
from tests import nodes, restated, tiny
from tests.nodes import EDITS, PROBES
from vsink_interp.graph.hook_points import find_hook
from vsink_interp.graph.site import Site, TokenMasks

HALF = [torch.bfloat16, torch.float16]
ATTENTIONS = ["sdpa", "eager"]
MARGIN = 1.15
"""The root mean square of our error over that of eager's own: two roundings differ by chance."""

PROMPTS = ("one image", "two images", "image last", "short")
DECISIONS = {"lens", "lens of text"}
"""Records of which words are likeliest: ranks, which are right or wrong and not near."""
RECORDS = [
    name
    for name, probe in PROBES.items()
    if name not in DECISIONS | {"function", "function without rows"} and "vision" not in probe.hook
]
GAP = vi.SinkDims(tiny.SINKS.dims, 3.0, source="planted, in a gap")


@cache
def lmm_in(dtype, attention):
    return vi.LMM(tiny.hf_model(dtype, attention), tiny.processor(), sinks=GAP)


class Eager:
    """Full eager attention in a model's own precision, with one node on what it computes."""

    def __init__(self, lmm, encoding, node):
        self.lmm, self.node = lmm, node
        self.masks = TokenMasks(encoding.layout, torch.device("cpu"))
        self.layers = node.resolved_layers(tiny.LAYERS)
        self.entering, self.constants, self.records = {}, {}, []

    def at(self, name, layer, value, extras):
        """The value that attention goes on with."""
        if self.node.hook != f"attn.hook_{name}" or layer not in self.layers:
            return value
        length = self.masks.layout.length
        phi = torch.from_numpy(restated.phi(self.entering[layer], GAP.dims))
        site = Site(
            find_hook(self.node.hook), layer, self.masks, 0, length, length,
            dims=GAP.dims, tau=GAP.tau, extras=extras, phis=[phi],
        )  # fmt: skip
        if isinstance(self.node, vi.Probe):
            self.records.append(self.node.measure(value, site))
            return value
        return self.node.apply(value, site)

    def __call__(self, module, query, key, value, attention_mask, scaling, **_):
        layer, group = module.layer_idx, query.shape[1] // key.shape[1]
        extras = {
            "value": value,
            "weight": module.o_proj.weight.unflatten(1, (tiny.HEADS, -1)).permute(1, 2, 0),
        }
        query, key = (
            self.at(name, layer, x.transpose(1, 2), extras).transpose(1, 2)
            for name, x in (("rot_q", query), ("rot_k", key))
        )
        keys, values = (x.repeat_interleave(group, 1) for x in (key, value))
        scores = query @ keys.transpose(2, 3) * scaling + attention_mask
        scores = self.at("attn_scores", layer, scores, extras)
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        pattern = torch.softmax(scores, -1, dtype=wide).to(query.dtype)
        total = scores.to(wide).exp().sum(-1).log()
        pattern = self.at("pattern", layer, pattern, extras | {"total": total})
        z = self.at("z", layer, (pattern @ values).transpose(1, 2), extras)
        return z.contiguous(), pattern

    @contextmanager
    def armed(self):
        layers = self.lmm.hf_model.model.language_model.layers
        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, i=i: self.entering.__setitem__(i, args[0].detach().clone())
            )
            for i, layer in enumerate(layers)
        ]
        own, modeling_llama.eager_attention_forward = modeling_llama.eager_attention_forward, self
        try:
            yield
        finally:
            modeling_llama.eager_attention_forward = own
            for hook in hooks:
                hook.remove()


@cache
def by_eager(dtype, prompt, node):
    """Logits, or what a probe records, by full eager attention."""
    lmm, encoding = lmm_in(dtype, "eager"), tiny.encode(prompt)
    if not find_hook(node.hook).computed:
        return ours(lmm, encoding, node)
    eager = Eager(lmm, encoding, node)
    with torch.no_grad(), eager.armed():
        logits = lmm.hf_model(**encoding.inputs).logits
    return torch.stack(eager.records) if isinstance(node, vi.Probe) else logits


def ours(lmm, encoding, node):
    run = lmm.run(encoding, graph=node)
    return run[node].values if isinstance(node, vi.Probe) else run.logits


def pairwise(names):
    """Each name in both precisions and with both attentions, in two of the four combinations."""
    both = [(ATTENTIONS, ATTENTIONS[::-1])[at % 2] for at in range(len(names))]
    return pytest.mark.parametrize(
        ("name", "attention", "dtype"),
        [
            (name, *case)
            for name, kinds in zip(names, both, strict=True)
            for case in zip(kinds, HALF, strict=True)
        ],
    )


def squares(value, exact):
    # Scores that the mask forbids are -inf with us and the least number with eager attention.
    seen = exact.double() > -1e30
    return (value.double() - exact.double())[seen].square().sum()


def acting(node):
    """The prompts that a node acts on."""
    for prompt in PROMPTS:
        encoding = tiny.encode(prompt)
        try:
            node.check(encoding.layout, generates=False)
        except vi.LayoutError:
            continue
        yield prompt, encoding


def sure(edit):
    """The same edit, with no decision near a threshold."""
    if isinstance(edit, vi.edits.ACT):
        return replace(edit, threshold=0.0)
    if not isinstance(edit, vi.VAR):
        return edit
    return replace(edit, rho=float(edit.mode != "paper"), min_image_mass=0.0, tau=GAP.tau)


def errors(node, dtype, attention):
    """Root of the summed squares of our error and of eager's own, and the size of the exact."""
    theirs = mine = size = 0.0
    for prompt, encoding in acting(node):
        exact, own = (by_eager(kind, prompt, node) for kind in (torch.float64, dtype))
        run = lmm_in(dtype, attention).run(encoding, graph=node)
        got = run[node].values if isinstance(node, vi.Probe) else run.logits
        if isinstance(node, vi.Probe) and got.shape != exact.shape:
            rows, axis = torch.tensor(run[node].coords["query"]), run[node].axes.index("query")
            exact, own = (x.index_select(axis, rows) for x in (exact, own))
        theirs, mine = theirs + squares(own, exact), mine + squares(got, exact)
        size += squares(torch.zeros(()).expand_as(exact), exact)
    return math.sqrt(mine), math.sqrt(theirs), math.sqrt(size)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", [name for name in nodes.PORTABLE if EDITS[name].point.computed])
def test_in_fp32_an_edit_equals_full_eager_attention(name, attention):
    edit = sure(EDITS[name])
    for prompt, encoding in acting(edit):
        want = by_eager(torch.float32, prompt, edit)
        got = lmm_in(torch.float32, attention).run(encoding, graph=edit).logits
        # Scores times three carry three times the rounding of the layers before.
        assert nodes.apart(got, want) < (3e-5 if name == "scaled scores" else 1e-5)


@pairwise(list(nodes.PORTABLE))
def test_an_edit_is_no_worse_than_by_eager_attention(name, attention, dtype):
    mine, theirs, size = errors(sure(EDITS[name]), dtype, attention)
    assert 0 < theirs < 0.1 * size
    assert mine < MARGIN * theirs


@pairwise(RECORDS)
def test_a_probe_is_no_worse_than_by_eager_attention(name, attention, dtype):
    mine, theirs, size = errors(PROBES[name], dtype, attention)
    assert 0 < theirs < 0.1 * size
    # Few rows have a sink on their image, so chance weighs more in their ratio.
    assert mine < (1.5 if name == "ratio" else MARGIN) * theirs
