"""An answer that is given with its prompt: where it ends, and what goes on from it."""

import pytest
import torch
from transformers import StoppingCriteria

import vsink_interp as vi
from tests import tiny
from tests.nodes import apart
from vsink_interp.sinks.image_heads import rank_heads

NAMES = ("two images", "one image", "short")
N = 6
NEAR = 4e-5


def ended(pad=None):
    """A run of a batch with answers of different length, and those lengths."""
    lmm = tiny.fresh()
    free = lmm.generate(tiny.batch(*NAMES), max_new_tokens=N).generated
    end = next(int(t) for t in free[:, 1:4].flatten() if (free == t).any(1).sum() < len(NAMES))
    lmm.hf_model.generation_config.eos_token_id = end
    lmm.hf_model.generation_config.pad_token_id = end if pad == "end" else 0
    images, prompts = zip(*(tiny.PROMPTS[name] for name in NAMES), strict=True)
    encoding = lmm.encode(list(images), list(prompts))
    lengths = [row.index(end) + 1 if end in row else N for row in free.tolist()]
    assert len(set(lengths)) > 1
    return lmm, encoding, lmm.generate(encoding, graph=vi.HEAD_PROBES, max_new_tokens=N), lengths


@pytest.mark.parametrize("given", ["run", "ids"])
@pytest.mark.parametrize("pad", ["own", "end"])
def test_answers_of_a_batch_are_given_up_to_their_end(pad, given):
    """Against each sample alone, its answer without padding, in plain transformers."""
    lmm, encoding, run, lengths = ended(pad)
    longer = encoding.with_answer(run if given == "run" else run.generated)
    assert longer.layout.mask("generated").sum(-1).tolist() == lengths
    again = lmm.run(longer, graph=vi.HEAD_PROBES)
    for sample, name in enumerate(NAMES):
        alone = tiny.encode(name)
        ids = torch.cat(
            [alone.inputs["input_ids"], run.generated[sample : sample + 1, : lengths[sample]]], 1
        )
        mask = torch.ones_like(ids)
        inputs = {**alone.inputs, "input_ids": ids, "attention_mask": mask}
        with torch.no_grad():
            expected = lmm.hf_model(**inputs).logits[0]
        start = encoding.layout.length - alone.layout.length
        got = again.logits[sample, start : encoding.layout.length + lengths[sample]]
        assert apart(got, expected) < NEAR
        said = lmm.processor.tokenizer.decode([int(expected[-1].argmax())])
        assert again.text[sample] == said.strip()
    # Rows of generation are all there again, and the last token's on top.
    once, twice = (rank_heads(each).mass for each in (run, again))
    assert apart(once, twice) > 0
    mass = vi.HEAD_PROBES.nodes[1]
    rows = run[mass].labels("query")
    got = again[mass].taken("query", rows).only(run.layout.read[:, list(rows)], "batch", "query")
    assert apart(got.mean("batch", "query").values, run[mass].mean("batch", "query").values) < NEAR


def test_what_goes_on_from_an_answer_is_aligned():
    lmm, encoding = tiny.lmm(), tiny.batch(*NAMES)
    run = lmm.generate(encoding, max_new_tokens=N)
    on = lmm.generate(encoding.with_answer(run.generated[:, :2]), max_new_tokens=N - 2)
    assert torch.equal(on.ids, run.ids)
    assert torch.equal(on.generated, run.generated[:, 2:])
    assert apart(on.logits, run.logits[:, 2:]) < NEAR
    best = on.logits.index_fill(2, torch.arange(5), -torch.inf).argmax(-1)
    assert torch.equal(best, on.generated), "logits[:, i] is the row that predicted generated[:, i]"
    assert list(on.answer_rows) == list(run.answer_rows)[2:]
    probe = vi.probes.Logits("generated")
    rows = lmm.run(encoding.with_answer(run), graph=probe)
    assert list(rows.answer_rows) == list(run.answer_rows)
    assert torch.equal(rows.generated, run.generated)


@pytest.mark.parametrize("group", ["image", "~image & ~bos", "sink & image"])
def test_keys_are_dropped_for_a_given_answer_too(group):
    """As if it had been generated: against the whole answer, and against the flow cut."""
    lmm, encoding = tiny.lmm(), tiny.batch("two images", "one image", "short")
    edit = vi.DropKeys(group)
    run = lmm.generate(encoding, graph=edit, max_new_tokens=N)
    prefix = encoding.with_answer(run.generated[:, :3])
    on = lmm.generate(prefix, graph=edit, max_new_tokens=N - 3)
    assert torch.equal(on.generated, run.generated[:, 3:])
    assert apart(on.logits, run.logits[:, 3:]) < NEAR
    plain = lmm.generate(prefix, max_new_tokens=N - 3)
    assert apart(on.logits[:, 0], plain.logits[:, 0]) > 0.1
    assert on.graph == vi.EditGraph(edit)


def test_a_ragged_answer_is_read_and_not_gone_on_from():
    lmm, encoding, run, _ = ended()
    with pytest.raises(vi.InputError, match=r"tokens long.*one by one"):
        lmm.generate(encoding.with_answer(run), max_new_tokens=2)


class After(StoppingCriteria):
    """Ends one sample of a batch after some tokens; keeps count, as criteria may."""

    def __init__(self, lengths):
        self.lengths, self.seen = torch.tensor(lengths), 0

    def __call__(self, ids, scores, **more):
        del ids, scores, more
        self.seen += 1
        return self.seen >= self.lengths


def test_answers_that_a_criterion_ends_are_told_from_padding_that_looks_like_an_end():
    lmm, encoding = tiny.lmm(), tiny.batch(*NAMES)
    lengths = [2, N, 4]
    run = lmm.generate(
        encoding,
        max_new_tokens=N,
        stopping_criteria=[After(lengths)],
        eos_token_id=2,
        pad_token_id=2,
    )
    assert run.layout.mask("generated").sum(-1).tolist() == lengths
    free = lmm.generate(encoding, max_new_tokens=N)
    for sample, length in enumerate(lengths):
        assert torch.equal(run.generated[sample, :length], free.generated[sample, :length])
        assert (run.generated[sample, length:] == 2).all()
