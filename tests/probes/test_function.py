"""Probes that are functions: they see all rows, and cannot change what the model goes on with."""

from dataclasses import dataclass
from typing import ClassVar, final

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import vsink_interp as vi
from tests import tiny
from vsink_interp.engine import row_program


def across(pattern, site) -> Float[Tensor, "batch head query key"]:
    """What the rows so far gave each key: it looks across rows."""
    del site
    return pattern.cumsum(2)


@pytest.mark.parametrize("batched", [True, False])
def test_a_function_looks_across_all_rows(batched, monkeypatch):
    """However many rows a tile has, against transformers' own attentions."""
    encoding = tiny.batch("one image", "short") if batched else tiny.encode()
    reference = tiny.lmm(attention="eager")
    with torch.no_grad():
        own = reference.hf_model(**encoding.inputs, output_attentions=True).attentions
    real = encoding.layout.mask("all")
    expected = (torch.stack(own) * real[None, :, None, :, None]).cumsum(3)
    monkeypatch.setattr(row_program, "TILE_ELEMENTS", 1)
    monkeypatch.setattr(row_program, "LEAST_ROWS", 5)
    probe = vi.probe("attn.hook_pattern")(across)
    seen = vi.probe("attn.hook_pattern", by_row=True)(across)
    got, tiled = (tiny.lmm().run(encoding, graph=p)[p].values for p in (probe, seen))
    last = torch.arange(encoding.layout.length)[-4:]
    if not batched:
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
        assert (tiled - expected).abs().max() > 0.5, "in tiles it cannot"
    else:
        step = got[:, :, :, 1:] - got[:, :, :, :-1]
        wanted = torch.stack(own)[:, :, :, 1:]
        torch.testing.assert_close(
            step[..., last - 1, :], wanted[..., last - 1, :], atol=1e-5, rtol=1e-3
        )


@pytest.mark.parametrize("hook", ["hook_resid_pre", "attn.hook_pattern", "hook_mlp_out"])
def test_a_function_that_works_in_place_moves_no_logit(hook):
    def spoil(value, site) -> Float[Tensor, "batch"]:
        del site
        value /= value.norm()
        return value.flatten(1).sum(1)

    encoding, lmm = tiny.encode(), tiny.lmm()
    probe = vi.probe(hook)(spoil)
    assert torch.equal(lmm.run(encoding, graph=probe).logits, tiny.plain(lmm, encoding))
    answer = lmm.generate(encoding, graph=probe, max_new_tokens=3)
    assert torch.equal(answer.logits, lmm.generate(encoding, max_new_tokens=3).logits)


@final
@dataclass(frozen=True)
class Spoils(vi.Probe):
    """A probe of one's own that writes into what it is shown."""

    hook: ClassVar[str] = "hook_resid_mid"
    axes: ClassVar[tuple[str, ...]] = ("batch",)
    layers: str = ":"

    def measure(self, value, site):
        del site
        value[:, 0] = 0
        return value.flatten(1).sum(1)


def test_a_probe_that_writes_is_refused():
    with pytest.raises(vi.CapabilityError, match=r"Spoils.*a probe changes nothing"):
        tiny.lmm().run(tiny.encode(), graph=Spoils())
