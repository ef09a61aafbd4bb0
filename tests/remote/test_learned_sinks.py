"""Learned sinks on a server: the softmax has its column there as here, over prompt and answer."""

import pytest

import vsink_interp as vi
from tests.families.decoders import LEARNED_SINKS, SINKS, around
from tests.families.test_families import PROMPTS
from tests.nodes import apart
from tests.remote.conftest import SAME, Real, same_records
from vsink_interp.probes import LearnedSinkMass, SegmentMass

pytestmark = pytest.mark.skipif(bool(Real.host), reason="the real server hosts tiny LLaVA alone")
MASSES = LearnedSinkMass("query generated") | SegmentMass()
GRAPHS = (
    MASSES,
    vi.Knockout("image -> query generated") | MASSES,
    vi.VAR(p=0.6, rho=0.1, min_image_mass=0.05, layers="1:3") | MASSES,
    MASSES | vi.SoftmaxRegister(0.4, layers="1:3"),
)


@pytest.fixture(scope="module")
def both(zoo):
    """A GPT-OSS inside an InternVL, with weights here and without."""
    model, processor = around("gpt_oss", "InternVL", attention="eager", **LEARNED_SINKS["gpt_oss"])
    model.save_pretrained(zoo["learned sinks"])
    processor.tokenizer.save_pretrained(zoo["learned sinks"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vsink_interp.model.lmm_base.load_processor", lambda *_, **__: processor)
        remote = vi.LMM.from_pretrained(
            zoo["learned sinks"], remote="http://127.0.0.1:1", check=False
        )
    remote.sinks = SINKS
    return vi.LMM(model, processor, sinks=SINKS, check=False), remote


def test_what_acts_on_patterns_with_learned_sinks_does_there_what_it_does_here(both, loopback):
    local, remote = both
    encoding = local.encode(*PROMPTS["two"])
    with remote.session(loopback.server(), allow_large=True) as session:
        for graph in GRAPHS:
            session.generate(encoding, graph=graph, max_new_tokens=3)
    plain = local.generate(encoding, max_new_tokens=3)
    for graph, there in zip(GRAPHS, session.runs, strict=True):
        here = local.generate(encoding, graph=graph, max_new_tokens=3)
        assert 0.2 < here[LearnedSinkMass("query generated")].mean().values < 0.9
        assert (apart(here.logits, plain.logits) > 0.01) == (graph is not MASSES)
        assert apart(here.logits, there.logits) < SAME
        same_records(here, there)
