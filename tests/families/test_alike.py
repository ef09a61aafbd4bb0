"""Families put together from parts of others: what their own parts say, against plain transformers.

The laws of the parts that they share are asked in test_families.py.
"""

from functools import cache

import pytest
import torch

import vsink_interp as vi
from tests.families import plain
from tests.families.test_families import (
    ALIKE,
    NEAR,
    PROMPTS,
    SINKS,
    apart,
    logits,
    paint_a_patch,
    readers,
)
from vsink_interp.families import FAMILIES
from vsink_interp.families.tiny import build

FORMS = {family.name: family for family in FAMILIES if family.name in ALIKE}
every_family = pytest.mark.parametrize("name", FORMS)
WORDS = "compare with that and count".split()


@cache
def lmm(name):
    config, processor = FORMS[name].tiny()
    return vi.LMM(build(config, "eager"), processor, sinks=SINKS, check=False)


@cache
def batch(name):
    images, texts = zip(*(PROMPTS[prompt] for prompt in ("wide", "two")), strict=True)
    return lmm(name).encode(list(images), list(texts))


@every_family
def test_looking_changes_no_bit_and_what_is_seen_is_what_transformers_returns(name):
    model, encoding = lmm(name), batch(name)
    probes = readers(model)
    run = model.run(encoding, graph=vi.EditGraph(*probes.values()))
    with torch.no_grad():
        theirs = model.hf_model(
            **encoding.inputs, output_hidden_states=True, output_attentions=True
        )
    assert torch.equal(run.logits, theirs.logits)
    real = encoding.inputs["attention_mask"].bool()
    pattern = run[probes["attn.hook_pattern"]].values
    for own, seen in zip(theirs.attentions, pattern, strict=True):
        assert torch.equal(own.transpose(1, 2)[real], seen.transpose(1, 2)[real])
    before, after = (run[probes[f"hook_resid_{at}"]].values for at in ("pre", "post"))
    assert torch.equal(before, torch.stack(theirs.hidden_states[:-1]))
    parts = [run[probes[f"hook_{part}"]].values for part in ("attn_out", "mlp_out")]
    torch.testing.assert_close(before + sum(parts), after, atol=1e-5, rtol=1e-4)
    heads = run[probes["attn.hook_result"]].values.sum(-2)
    torch.testing.assert_close(heads, parts[0], atol=1e-4, rtol=1e-4)


@every_family
def test_image_tokens_and_words_are_where_they_are(name):
    model, encoding = lmm(name), batch(name)
    ids, layout = encoding.inputs["input_ids"], encoding.layout
    image_id = model.hf_model.config.image_token_id
    assert torch.equal(layout.mask("image"), ids == image_id)
    assert [len(images) for images in layout.images] == [1, 2]
    query = model.processor.tokenizer.decode(ids[1][layout.mask("query & ~separator & ~role")[1]])
    assert query.split() == WORDS


@pytest.mark.parametrize("prompt", ["wide", "high"])
@every_family
def test_a_painted_patch_changes_its_own_token(name, prompt):
    paint_a_patch(lmm(name), prompt)


@every_family
def test_a_knockout_generates_what_a_cut_in_transformers_own_mask_does(name):
    model, encoding = lmm(name), batch(name)
    ids = encoding.inputs["input_ids"]
    new = torch.zeros(2, 3, dtype=torch.bool)
    columns = torch.cat([ids == model.hf_model.config.image_token_id, new], 1)
    rows = torch.cat([encoding.layout.mask("query"), ~new], 1)
    options = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    with plain.cut(model.hf_model, rows, columns, range(4)):
        theirs = model.hf_model.generate(**encoding.inputs, **options)
    run = model.generate(encoding, graph=vi.Knockout("image -> query generated"), max_new_tokens=3)
    assert apart(theirs.logits[0], logits(model.hf_model, encoding)[:, -1]) > 0.1
    assert torch.equal(run.ids, theirs.sequences)
    assert apart(run.logits, torch.stack(theirs.logits, 1)) < NEAR


@every_family
def test_the_noise_of_an_image_does_not_depend_on_its_batch(name):
    model, graph = lmm(name), vi.edits.Contrast(image="noise", beta=0.0)
    together, plain_run = model.run(batch(name), graph=graph), model.run(batch(name))
    alone = model.run(*PROMPTS["wide"], graph)
    assert apart(together.logits[0, -1], alone.logits[0, -1]) < 4 * NEAR
    assert apart(together.logits[0, -1], plain_run.logits[0, -1]) > 1e-3
