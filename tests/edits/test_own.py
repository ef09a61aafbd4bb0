"""Edits of one's own: as functions in both conventions, and as values."""

from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import vsink_interp as vi
from tests import nodes, tiny


@dataclass(frozen=True)
class Shrink(vi.Edit):
    """Multiply what attention adds, at some rows: the edit of `docs/own-edits.md`."""

    factor: float
    layers: object = ":"
    rows: str = "query generated"
    hook = "hook_attn_out"

    def check(self, layout, *, generates):
        layout.check_group(self.rows, generates=generates)

    def apply(self, value, site):
        return torch.where(site.queries(self.rows)[..., None], value * self.factor, value)


def by_hooks(encoding) -> Tensor:
    """Logits of the plain model with half of what attention adds in layers 1 and 2."""
    model = tiny.hf_model()
    rows = encoding.layout.mask("query")[..., None]
    handles = [
        model.model.language_model.layers[i].self_attn.register_forward_hook(
            lambda _, __, out: (torch.where(rows, out[0] * 0.5, out[0]), *out[1:])
        )
        for i in (1, 2)
    ]
    with torch.no_grad():
        logits = model(**encoding.inputs).logits
    for handle in handles:
        handle.remove()
    return logits


def with_site(value, site):
    return torch.where(site.queries("query generated")[..., None], value * 0.5, value)


def with_hook(value, *, hook):
    return with_site(value, hook.site)


class Method:
    def act(self, value, site):
        return with_site(value, site)


@pytest.mark.parametrize(
    "edit",
    [
        Shrink(0.5, range(1, 3)),
        vi.Fn("hook_attn_out", with_site, layers=[1, 2]),
        vi.Fn("blocks.{1-2}.hook_attn_out", with_hook),
        vi.Fn("hook_attn_out", Method().act, layers=(1, 2)),
    ],
    ids=["value", "site", "hook", "method"],
)
def test_every_way_of_writing_it_is_the_same_edit(edit):
    encoding = tiny.encode()
    got = tiny.lmm().run(encoding, graph=edit).logits
    assert nodes.apart(got, tiny.plain(tiny.lmm(), encoding)) > 1e-3
    assert nodes.apart(got, by_hooks(encoding)) < 2e-5


def test_a_value_compares_prints_and_is_json():
    edit = Shrink(0.5, [1, 2])
    assert edit == Shrink(0.5, range(1, 3))
    assert eval(repr(edit)) == edit
    assert vi.EditGraph.from_json(edit.to_json()) == vi.EditGraph(edit)
    with pytest.raises(vi.NotationError, match="not a layer range"):
        Shrink(0.5, "1-2")
    with pytest.raises(vi.LayoutError, match="no history token"):
        tiny.lmm().run(tiny.encode(), graph=Shrink(0.5, rows="history"))


def test_probes_take_both_conventions():
    @vi.probe("blocks.{1-2}.attn.hook_pattern")
    def site_probe(value, site) -> Float[Tensor, "batch head query"]:
        return (value * site.keys("image")[:, None, None]).sum(-1)

    @vi.probe("blocks.{1-2}.attn.hook_pattern")
    def hook_probe(value, hook) -> Float[Tensor, "batch head query"]:
        return (value * hook.site.keys("image")[:, None, None]).sum(-1)

    run = tiny.lmm().run(tiny.encode(), graph=site_probe | hook_probe)
    assert torch.equal(run["site_probe"].values, run["hook_probe"].values)
    assert float(run["site_probe"].values.max()) > 0.1


@pytest.mark.parametrize("fn", [lambda value: value, lambda: None])
def test_a_function_that_takes_something_else_is_refused_at_once(fn):
    with pytest.raises(vi.NotationError, match=r"is called as \(value, site\)|takes a function"):
        vi.Fn("hook_attn_out", fn)


def test_an_error_inside_says_where_it_was():
    def wrong(value, site):
        if site.layer == 2 and not site.prefill:
            raise ZeroDivisionError("mine")
        return value

    @vi.probe("attn.hook_z", layers=1)
    def wrong_probe(value, site) -> Float[Tensor, "batch query"]:
        del site
        return value @ value

    with pytest.raises(ZeroDivisionError) as raised:
        tiny.lmm().generate(tiny.encode(), graph=vi.Fn("hook_mlp_out", wrong), max_new_tokens=3)
    told = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    assert "Fn('hook_mlp_out', wrong, layers=':') at blocks.2.hook_mlp_out in a decode step" in told
    with pytest.raises(RuntimeError) as raised:
        tiny.lmm().run(tiny.encode(), graph=wrong_probe)
    told = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    assert "wrong_probe at blocks.1.attn.hook_z in the prefill, tokens 0 to 21" in told
