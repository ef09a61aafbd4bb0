"""Compressed contexts and gradients on a server: what it gives is what the local binding gives."""

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.nodes import apart
from tests.remote.conftest import SAME, Real, same_records

ASSET, PROMPT = tiny.PROMPTS["one image"]
QUESTIONS = ["is the ball red ?", "count"]
SPECS = (
    vi.CompressedContext(keep=0.3),
    vi.CompressedContext(0.3, "contribution", strategy="s"),
    vi.CompressedContext(strategy="q"),
)
SEEN = vi.Knockout("image -> generated", "1:3") | vi.probes.SegmentMass() | vi.probes.Pattern("all")
"""Rows are those of the question alone, and what is not kept gets no attention from them."""


@pytest.fixture(scope="module")
def lmm(tiny_dir, loopback):
    """The tiny LLaVA without weights, whose runs go to the server."""
    found = vi.LMM.from_pretrained(tiny_dir, remote=loopback.server(), attn_implementation="sdpa")
    found.sinks = tiny.SINKS
    return found


@pytest.fixture(scope="module")
def contexts(lmm):
    """The same contexts, there and here."""
    there = lmm.compress(ASSET, PROMPT, SPECS, max_new_tokens=3)
    return list(
        zip(there, tiny.lmm().compress(ASSET, PROMPT, SPECS, max_new_tokens=3), strict=True)
    )


@pytest.mark.parametrize("number", range(len(SPECS)))
def test_a_context_answers_there_as_here(number, contexts):
    there, here = contexts[number]
    assert torch.equal(there.kept, here.kept) and str(there.tokens_kept) == str(here.tokens_kept)
    seen = SEEN if here.kept_patches.any() else vi.probes.SegmentMass()
    for question, graph in ((QUESTIONS[0], seen), (QUESTIONS, None)):
        one = there.ask(question, graph, max_new_tokens=3, allow_large=True)
        other = here.ask(question, graph, max_new_tokens=3)
        assert torch.equal(one.ids, other.ids) and one.text == other.text
        assert apart(one.logits, other.logits) < SAME
        same_records(other, one)


def test_what_is_not_kept_matters(contexts):
    """Else all of the above would be that of the whole prompt."""
    few, none = contexts[0][0], contexts[2][0]
    answers = [each.ask(QUESTIONS[0], max_new_tokens=1).logits for each in (few, none)]
    assert apart(*answers) > 0.01


def test_a_context_of_a_server_is_asked_there(contexts):
    there, here = contexts[0]
    with pytest.raises(vi.CapabilityError, match="its cache did not come here"):
        tiny.lmm().generate(there.encode(QUESTIONS[0]), max_new_tokens=1)
    question = here.encode(QUESTIONS[0])
    asked = there.lmm.generate(question, max_new_tokens=2)  # made here, asked there
    assert apart(asked.logits, here.ask(QUESTIONS[0], max_new_tokens=2).logits) < SAME


@pytest.mark.parametrize(
    "graph, said",
    [
        (vi.probes.Activation("attn.hook_rot_k"), "where a compressed context acts"),
        (vi.DropKeys("query"), "choose what that context keeps"),
    ],
)
def test_what_would_see_what_is_not_kept_is_refused(graph, said, contexts, loopback):
    before = loopback.jobs
    with pytest.raises(vi.CapabilityError, match=said):
        contexts[0][0].ask(QUESTIONS[0], graph, max_new_tokens=2)
    assert loopback.jobs == before


def test_a_job_of_them_is_collected_from_a_file(lmm, contexts, tmp_path):
    """The images of a second pass are on the server by then, and no more here."""
    there, here = contexts[0]
    session = lmm.session()
    session.generate(there.encode(QUESTIONS[0]), max_new_tokens=2)
    session.generate(ASSET, PROMPT, vi.Contrast("noise"), max_new_tokens=2)
    session.submit().save(tmp_path / "job.json")
    asked, contrasted = vi.Job.load(tmp_path / "job.json", lmm.backend.server(None)).collect(lmm)
    assert apart(asked.logits, here.ask(QUESTIONS[0], max_new_tokens=2).logits) < SAME
    local = tiny.lmm().generate(ASSET, PROMPT, vi.Contrast("noise"), max_new_tokens=2)
    assert torch.equal(contrasted.ids, local.ids)


OF = "logit of 'blue' - 'red' at last"
GRADIENTS = [
    vi.probes.Gradient(hook, OF, layers="1:3", rows=rows)
    for hook, rows in (
        ("hook_resid_pre", None), ("hook_resid_mid", "query"), ("hook_mlp_out", None),
        ("attn.hook_v", None), ("attn.hook_rot_k", None), ("attn.hook_pattern", "query"),
        ("attn.hook_attn_scores", None), ("attn.hook_result", None),
    )
]  # fmt: skip
GRADIENTS += [vi.probes.Gradient(hook, OF) for hook in ("hook_embed", "vision_projector.hook_out")]


@pytest.mark.parametrize("graph", [vi.EditGraph(), vi.Knockout("image -> query", "2:"),
                                   vi.Contrast("noise", beta=0.0)])  # fmt: skip
def test_a_gradient_there_is_the_one_here(graph, lmm):
    encoding = tiny.batch("one image", "short", "two images")
    if not Real.trusted:
        with pytest.raises(vi.RemoteError, match="no gradient comes back through it"):
            lmm.run(encoding, graph=graph | GRADIENTS[0], allow_large=True)
        return
    with lmm.session(allow_large=True) as session:
        for probe in GRADIENTS:
            session.run(encoding, graph=graph | probe)
    for probe, there in zip(GRADIENTS, session.runs, strict=True):
        same_records(tiny.lmm().run(encoding, graph=graph | probe), there)
        assert there[probe].values.nan_to_num().abs().max() > 0
