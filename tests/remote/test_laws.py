"""One graph, two places: what a server gives is what the local binding gives."""

import inspect

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.edits.test_own import Shrink
from tests.nodes import ACTIVATIONS, CONTRASTS, DROPS, EDITS, PROBES, apart, real
from tests.remote.conftest import SAME, same_records
from vsink_interp.edits import recipes
from vsink_interp.kernels import cut
from vsink_interp.remote.client import Submitting

OWN = {
    "an edit of one's own": Shrink(0.5, "1:3"),
    "a register in the vision encoder": recipes.registers({1: (3, 17)}),
}
LOOKED_AT = {
    "what is left of a dropped image": vi.probes.Activation("attn.hook_attn_scores")
    | vi.DropKeys("image[0]", "1:3")
    | vi.probes.SegmentMass()
    | vi.AddScores("query", 2.0)
    | vi.probes.Pattern("all"),
}
"""Looking comes before and after: a probe in front sees a cache that lacks the keys as well."""
GRAPHS = {
    **EDITS,
    **DROPS,
    **LOOKED_AT,
    **OWN,
    **{f"probe {name}": probe for name, probe in PROBES.items()},
}


@pytest.fixture(scope="module")
def lmm(tiny_dir):
    """The tiny LLaVA without weights."""
    found = vi.LMM.from_pretrained(
        tiny_dir, remote="http://127.0.0.1:1", attn_implementation="sdpa"
    )
    found.sinks = tiny.SINKS
    return found


GRADIENT = vi.probes.Gradient("attn.hook_pattern", of="logit of 7 at last", layers="1:3")
ONE_PASS = (
    "noised image", "disturbed instruction", "edited second pass",
    "image to generated", "sinks as rows", "paper", "unembed.hook_out in place",
    "probe activation unembed.hook_out", "probe mass by sinks", "probe contribution",
)  # fmt: skip
"""An answer is a pass over the prompt and then some; these are compared without the rest too."""


def near(name):
    """A contrast is three times a difference, of passes that there share a batch and padding."""
    return 10 * SAME if name in CONTRASTS else SAME


def together(lmm, loopback, encoding, graphs, n_new=None):
    """Graphs in one round trip."""
    session = lmm.session(loopback.server(), allow_large=True)
    with session:
        for graph in graphs.values():
            if n_new is None:
                session.run(encoding, graph=graph)
            else:
                session.generate(encoding, graph=graph, max_new_tokens=n_new)
    return dict(zip(graphs, session.runs, strict=True))


@pytest.fixture(scope="module")
def encoding():
    return tiny.batch("one image", "short", "two images")


@pytest.fixture(scope="module")
def passes(lmm, loopback, encoding):
    return together(lmm, loopback, encoding, {name: GRAPHS[name] for name in ONE_PASS})


@pytest.fixture(scope="module")
def answers(lmm, loopback, encoding):
    return together(lmm, loopback, encoding, GRAPHS, 3)


def test_this_package_does_not_exist_on_the_server(lmm, loopback, encoding):
    """What is sent by name, as nnsight sends an installed package's functions, is not found."""
    hosted = lmm.backend.hosted
    backend = Submitting(hosted.key, host=loopback.host, env={}, blocking=False)
    backend.display.enabled = False
    model, found = hosted.nnsight, None
    with model.trace(**encoding.inputs, backend=backend):
        found = cut(model.lm_head.output, None, None).save()  # noqa: F841 (read on the server)
    with pytest.raises(vi.RemoteError, match="No module named 'vsink_interp'"):
        loopback.server().wait(backend.job_id)


@pytest.mark.parametrize("name", ONE_PASS)
def test_a_pass_equals_the_local_one(name, passes, encoding):
    here, there = tiny.lmm().run(encoding, graph=GRAPHS[name]), passes[name]
    keep = real(encoding)
    assert apart(here.logits[keep], there.logits[keep]) < near(name)
    assert here.text == there.text
    same_records(here, there)


@pytest.mark.parametrize("name", GRAPHS)
def test_an_answer_equals_the_local_one(name, answers, encoding):
    here = tiny.lmm().generate(encoding, graph=GRAPHS[name], max_new_tokens=3)
    there = answers[name]
    assert torch.equal(here.ids, there.ids)
    assert apart(here.logits, there.logits) < near(name)
    assert here.text == there.text
    same_records(here, there)


@pytest.fixture(scope="module")
def untouched(encoding):
    return tiny.lmm().generate(encoding, max_new_tokens=3).logits


@pytest.mark.parametrize("name", sorted((EDITS | DROPS | LOOKED_AT).keys() & GRAPHS.keys()))
def test_every_edit_acts_there(name, answers, untouched):
    assert apart(answers[name].logits, untouched) > 0.1


CANNOT = {
    "passes that draw": ("noised image", {"do_sample": True}, "would draw different tokens"),
    "passes that a penalty parts": (
        "disturbed instruction", {"repetition_penalty": 1.3}, "give repetition_penalty=1.0",
    ),
    "gradients of an answer": ("gradient", {}, "gradients are of one forward pass"),
}  # fmt: skip
"""A name of a graph, options of `generate`, and what is said."""


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_run_there_says_so_before_anything_is_sent(name, lmm, loopback, encoding):
    graph, how, said = CANNOT[name]
    before, node = loopback.jobs, {**GRAPHS, "gradient": GRADIENT}[graph]
    with pytest.raises(vi.CapabilityError, match=said):
        lmm.generate(encoding, graph=node, remote=loopback.server(), max_new_tokens=3, **how)
    assert loopback.jobs == before


def halved(scores, site):
    del site
    return 0.5 * scores


@pytest.mark.parametrize(
    "other",
    [
        vi.Redistribute("image", "query", 0.5),
        vi.probes.Activation("attn.hook_rot_k"),
        vi.Fn("attn.hook_attn_scores", halved),
    ],
)
def test_what_would_see_dropped_keys_on_a_server_is_refused(other, lmm, loopback, encoding):
    """There they stay in the cache; here they are gone, and what is given to them is lost."""
    before = loopback.jobs
    graph, how = vi.DropKeys("image", "2:") | other, {"max_new_tokens": 3, "allow_large": True}
    with pytest.raises(vi.CapabilityError, match="the keys stay in a server's cache"):
        lmm.generate(encoding, graph=graph, remote=loopback.server(), **how)
    assert loopback.jobs == before


def test_edits_of_dropped_keys_alone_are_refused_before_anything_is_sent(lmm, loopback, encoding):
    before = loopback.jobs
    graph = vi.DropKeys("image") | vi.AddScores("image", 1.0, rows="generated")
    with pytest.raises(vi.LayoutError, match="changes nothing together with DropKeys"):
        lmm.generate(encoding, graph=graph, remote=loopback.server(), max_new_tokens=3)
    assert loopback.jobs == before


def test_heads_that_rows_choose_are_cut_beside_dropped_keys(lmm, loopback, encoding):
    cut = vi.Knockout("system -> query generated", "1:", heads=vi.TopHeads("query", 2))
    graph, n_new = vi.DropKeys("image", "1:3") | cut, 3
    there = lmm.generate(encoding, graph=graph, max_new_tokens=n_new, remote=loopback.server())
    here = tiny.lmm().generate(encoding, graph=graph, max_new_tokens=n_new)
    assert torch.equal(here.ids, there.ids) and apart(here.logits, there.logits) < SAME


def test_tokens_that_a_pass_finds_are_found_there(lmm, loopback, encoding):
    """In a job of its own; a session sends all at once, and says what to do before."""
    graph, word = vi.Knockout("top(image,2,1) -> query"), "top(image,2,1)"
    before = loopback.jobs
    there = lmm.run(encoding, graph=graph, remote=loopback.server(), allow_large=True)
    here, keep = tiny.lmm().run(encoding, graph=graph), real(encoding)
    assert loopback.jobs == before + 2
    assert torch.equal(there.layout.mask(word), here.layout.mask(word))
    assert apart(there.logits[keep], here.logits[keep]) < SAME
    session = lmm.session(loopback.server(), allow_large=True)
    with pytest.raises(vi.LayoutError, match=r"vi\.mark"):
        session.run(encoding, graph=graph)
    session.run(vi.mark(tiny.lmm(), encoding, word), graph=graph)


def test_an_answer_of_one_token(lmm, loopback, encoding):
    """Without a decode step there is nothing to stop at after the prompt."""
    graph = vi.Knockout("image -> query") | vi.probes.SegmentMass()
    there = lmm.generate(encoding, graph=graph, max_new_tokens=1, remote=loopback.server())
    here = tiny.lmm().generate(encoding, graph=graph, max_new_tokens=1)
    assert torch.equal(here.ids, there.ids) and apart(here.logits, there.logits) < SAME
    same_records(here, there)


def test_no_input_is_read_of_a_module_that_holds_the_cache(lmm, encoding):
    """A sandbox would write back a copy of it, and what is kept later would be lost."""
    graph = EDITS["paper"] | EDITS["hook_resid_pre"]
    for probe in ACTIVATIONS.values():
        graph |= probe
    session = lmm.session("http://127.0.0.1:1")
    session.generate(encoding, graph=graph, max_new_tokens=3)
    stops = [stop for stop in session.requests[0].job["stops"] if stop["kind"] == "tap"]
    read = {stop["path"] for stop in stops if "input" in stop["side"]}
    assert len(read) > 8
    for path in read:
        module = lmm.hf_model.get_submodule(path)
        taken = inspect.signature(module.forward).parameters
        assert not {"past_key_values", "cache"} & taken.keys()
