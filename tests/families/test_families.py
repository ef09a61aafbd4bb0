"""Every family, on a tiny model of its real classes, against plain transformers."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import vsink_interp as vi
from tests import lacking
from tests.families import plain
from vsink_interp.engine.cached_prefix import CACHE_ARGUMENT
from vsink_interp.families import FAMILIES
from vsink_interp.families.tiny import build

TINY = {one.name: one for one in FAMILIES if one.tiny and one.name not in lacking.FAMILIES}
SHOWN = {name: family for name, family in TINY.items() if family.sight != "cross-attention"}
"""Families whose images are tokens of the prompt."""
NEAR = 5e-5
UNADDED = {"Gemma 4": "added behind the MLP and the sum is scaled"}
"""Families whose layers add more to the residual stream than attention and MLP."""
SINKS = vi.SinkDims((3, 17), 1.6, source="planted")
ATTENTIONS = ("sdpa", "eager")
ALIKE = frozenset({"Aya Vision", "Cohere2 Vision", "Ovis2", "Video-LLaVA", "VipLLaVA"})
"""Families whose decoders are those of others: what both attentions share is asked of one."""


def every_family(test):
    return pytest.mark.parametrize("name", TINY)(test)


def every_family_with_image_tokens(test):
    return pytest.mark.parametrize("name", SHOWN)(test)


def source(name):
    """A group of tokens that everything after it reads, and the id of its tokens."""
    if name in SHOWN:
        return "image", lmm(name).hf_model.config.image_token_id
    return "bos", lmm(name).processor.tokenizer.bos_token_id


def both(names):
    """Every family with each attention."""
    cases = [(name, kind) for name in names for kind in ATTENTIONS[: 2 - (name in ALIKE)]]
    return pytest.mark.parametrize(("name", "attention"), cases)


@cache
def lmm(name, attention="sdpa", dtype=torch.float32):
    config, processor = TINY[name].tiny()
    return vi.LMM(build(config, attention, dtype), processor, sinks=SINKS, check=False)


def image(seed=0, size=(70, 56)):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.NEAREST)


PROMPTS = {
    "one": (image(0), "what is the red disc on this ?"),
    "wide": (image(1, (151, 47)), "count"),
    "high": (image(2, (45, 130)), "describe the big blue square now please ?"),
    "two": ([image(3, (90, 61)), image(4)], "compare <image> with that <image> and count"),
    "text": (None, "please describe the big blue square now ?"),
}


def prompts(name):
    """The prompts that a family takes."""
    return [prompt for prompt in PROMPTS if prompt != "text" or TINY[name].text_alone]


@cache
def encoded(name, prompt):
    return lmm(name).encode(*PROMPTS[prompt])


@cache
def batch(name):
    crossed = TINY[name].sight == "cross-attention"
    mixed = ("wide", "one") if crossed else ("wide", "two", "text", "one")
    chosen = [prompt for prompt in mixed if prompt in prompts(name)]
    images, texts = zip(*(PROMPTS[prompt] for prompt in chosen), strict=True)
    return chosen, lmm(name).encode(list(images), list(texts))


def logits(hf_model, encoding):
    with torch.no_grad():
        return hf_model(**encoding.inputs).logits


def real(encoding):
    return encoding.inputs["attention_mask"].bool()


def apart(one, other):
    return float((one.double() - other.double()).abs().max())


def readers(model):
    """A probe of every hook point that a model offers at every layer of its stack."""
    points = [p for p in vi.HOOKS if p.template in model.hooks]
    names = {p: p.name if p.stack == "blocks" else p.template for p in points}
    return {
        name: vi.probes.Activation(name, model.layers_with(p.template) if p.stack else ":")
        for p, name in names.items()
    }


def kinds(model):
    config = model.hooked.config
    crossed = getattr(config, "cross_attention_layers", ())
    plain = ["cross_attention" if at in crossed else "full_attention" for at in range(4)]
    return getattr(config, "layer_types", None) or plain


def attending(model):
    """The layers that have a pattern."""
    known = ("full_attention", "sliding_attention")
    return tuple(i for i, kind in enumerate(kinds(model)) if kind in known)


def full_layers(model):
    """The layers that attend to everything; of the others some keep a window of keys."""
    return tuple(i for i, kind in enumerate(kinds(model)) if kind == "full_attention")


# What edits nothing changes no bit, and what is read is what transformers computes.


@both(TINY)
def test_an_empty_graph_changes_no_bit(name, attention):
    model = lmm(name, attention)
    for encoding in [*(encoded(name, prompt) for prompt in prompts(name)), batch(name)[1]]:
        assert torch.equal(model.run(encoding).logits, logits(model.hf_model, encoding))


@pytest.mark.parametrize("attention", ATTENTIONS)
@every_family
def test_what_is_read_is_what_transformers_returns(name, attention):
    model, encoding = lmm(name, attention), encoded(name, "two")
    probes = readers(model)
    run = model.run(encoding, graph=vi.EditGraph(*probes.values()))
    with torch.no_grad():
        theirs = model.hf_model(
            **encoding.inputs, output_hidden_states=True, output_attentions=attention == "eager"
        )
    assert torch.equal(run.logits, theirs.logits)
    entering, leaving = (run[probes[f"hook_resid_{at}"]].values for at in ("pre", "post"))
    assert torch.equal(entering[0], theirs.hidden_states[0])
    assert torch.equal(leaving[:-1], torch.stack(theirs.hidden_states[1:-1]))
    added = (entering[1:] != leaving[:-1]).any(-1)
    stacked = getattr(model.hf_model.config.vision_config, "deepstack_visual_indexes", ())
    image = encoding.layout.mask("image")
    for layer, places in enumerate(added):
        assert torch.equal(places, image if layer < len(stacked) else torch.zeros_like(image))
    assert torch.equal(run[probes["ln_final.hook_out"]].values, theirs.hidden_states[-1])
    patterns = run[probes["attn.hook_pattern"]].values
    torch.testing.assert_close(patterns.sum(-1), torch.ones_like(patterns[..., 0]))
    if attention == "eager":
        own = theirs.attentions  # of layers of cross-attention as well, where there are some
        own = [own[at] for at in attending(model)] if len(own) == model.n_layers else own
        assert torch.equal(patterns, torch.stack(own))


@every_family
def test_the_parts_of_a_block_add_up(name):
    """Attention's and the MLP's share, and what each head adds, are those of the residual."""
    model, encoding = lmm(name), encoded(name, "one")
    run = model.run(encoding, graph=vi.EditGraph(*readers(model).values()))

    attn, mlp = (f"blocks.{{layer}}.hook_{part}_out" for part in ("attn", "mlp"))
    layers = list(model.layers_with(attn))
    if name not in UNADDED:
        layers = [layer for layer in layers if layer in model.layers_with(mlp)]
    else:
        with pytest.raises(vi.CapabilityError, match=UNADDED[name]):
            model.run(encoding, graph=vi.probes.Activation("hook_mlp_out"))

    def value(hook):
        record = run[readers(model)[hook]]
        return record.values[[record.labels("layer").index(at) for at in layers]]

    mid = value("hook_resid_pre") + value("hook_attn_out")
    if "blocks.{layer}.hook_resid_mid" in model.hooks:  # attention and MLP may stand side by side
        torch.testing.assert_close(value("hook_resid_mid"), mid, atol=1e-5, rtol=1e-4)
    if name in UNADDED:
        return
    post = mid + value("hook_mlp_out")
    torch.testing.assert_close(value("hook_resid_post"), post, atol=1e-5, rtol=1e-4)


@both(TINY)
def test_greedy_answers_are_those_of_generate(name, attention):
    model = lmm(name, attention)
    _, encoding = batch(name)
    theirs = model.hf_model.generate(
        **encoding.inputs, max_new_tokens=5, return_dict_in_generate=True, output_logits=True
    )
    run = model.generate(encoding, graph=vi.EditGraph(*readers(model).values()), max_new_tokens=5)
    assert torch.equal(run.ids, theirs.sequences)
    assert torch.equal(run.logits, torch.stack(theirs.logits, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16])
@every_family
def test_probes_change_no_bit_in_half_precision(name, dtype):
    model = lmm(name, "sdpa", dtype)
    encoding = model.encode(*PROMPTS["two"])
    run = model.run(encoding, graph=vi.EditGraph(*readers(model).values()))
    assert torch.equal(run.logits, logits(model.hf_model, encoding))


@every_family
def test_a_batch_equals_its_samples_one_by_one(name):
    model = lmm(name)
    chosen, together = batch(name)
    layers = tuple(layer for layer in attending(model) if layer)
    edit = vi.edits.AddScores("query", 1.5, layers=layers)
    both_runs = model.generate(together, graph=edit, max_new_tokens=4)
    for sample, prompt in enumerate(chosen):
        alone = model.generate(encoded(name, prompt), graph=edit, max_new_tokens=4)
        assert torch.equal(both_runs.generated[sample], alone.generated[0])
        assert apart(both_runs.logits[sample], alone.logits[0]) < 2 * NEAR


# Tokens.


@every_family_with_image_tokens
def test_image_tokens_are_those_that_get_image_features(name):
    model, (chosen, encoding) = lmm(name), batch(name)
    layout = encoding.layout
    image_id = model.hf_model.config.image_token_id
    assert torch.equal(layout.mask("image"), encoding.inputs["input_ids"] == image_id)
    for sample, prompt in enumerate(chosen):
        given = PROMPTS[prompt][0]
        count = 0 if given is None else len(given) if isinstance(given, list) else 1
        assert len(layout.images[sample]) == count
        sizes = [int((layout.image_index[sample] == i).sum()) for i in range(count)]
        assert sizes == [span.size for span in layout.images[sample]]


@every_family
def test_words_of_the_prompt_are_found(name):
    model, encoding = lmm(name), encoded(name, "two")
    ids = encoding.inputs["input_ids"]
    query = model.processor.tokenizer.decode(
        ids[encoding.layout.mask("query & ~separator & ~role")]
    )
    assert query.split() == "compare with that and count".split()


@pytest.mark.parametrize("prompt", ["one", "wide", "high"])
@every_family_with_image_tokens
def test_a_painted_patch_changes_its_own_token(name, prompt):
    paint_a_patch(lmm(name), prompt)


def paint_a_patch(model, prompt):
    """Paint the middle of a token's box, in a tower without attention: its features change, and
    no other's but in views that show the same place."""
    original = (
        PROMPTS[prompt][0].convert("RGB").resize([8 * side for side in PROMPTS[prompt][0].size])
    )
    encoding = model.encode(original, "count")
    (span,) = encoding.layout.images[0]
    patches = [token for token, place in enumerate(span.places) if place]
    image = encoding.layout.mask("image")[0]
    with plain.local_vision(model.hf_model):
        before = entering(model, encoding)[image]
        for patch in {patches[0], patches[len(patches) // 3], patches[-1]}:
            left, top, right, bottom = span.patch_box(patch)
            inner = (
                left + 0.4 * (right - left), top + 0.4 * (bottom - top),
                right - 0.4 * (right - left), bottom - 0.4 * (bottom - top),
            )  # fmt: skip
            if not (inner[0] >= 0 and inner[2] < original.width and inner[1] >= 0) or not (
                inner[3] < original.height
            ):
                continue
            painted = original.copy()
            ImageDraw.Draw(painted).rectangle(inner, fill="white")
            ImageDraw.Draw(painted).rectangle([*inner[:2], inner[2], (inner[1] + inner[3]) / 2])
            after = entering(model, model.encode(painted, "count"))[image]
            changed = (after - before).abs().amax(-1)
            found = set(torch.nonzero(changed > 1e-3 * changed.max()).flatten().tolist())
            assert patch in found
            assert found <= set(span.tokens_in(span.patch_box(patch)))
            views = {span.places[token][0] for token in found}
            shown = {span.places[token][0] for token in span.tokens_in(inner)}
            assert views == shown


def entering(model, encoding):
    """What enters the first layer: embeddings, with image features in their places."""
    probe = vi.probes.Resid("all", 0, at="pre")
    return model.run(encoding, graph=probe)[probe].values[0, 0]


# Edits act, and equal plain eager attention.


N_DROPPED = 18


def by_eager(name, inputs, n_new):
    """The answer of transformers' own eager attention."""
    return lmm(name, "eager").hf_model.generate(
        **inputs, max_new_tokens=n_new, return_dict_in_generate=True, output_logits=True
    )


@cache
def untouched(name):
    return by_eager(name, batch(name)[1].inputs, N_DROPPED)


@cache
def cut_by_eager(name):
    """Without the flow from a group to the query and the answer, in all layers but the first."""
    encoding = batch(name)[1]
    ids = encoding.inputs["input_ids"]
    cut = ids == source(name)[1]
    new = torch.zeros(len(ids), 6, dtype=torch.bool)
    columns = torch.cat([cut, new], 1)
    after = torch.arange(ids.shape[1]) > cut.int().argmax(1)[:, None]
    rows = torch.cat([encoding.layout.mask("query"), ~new], 1)
    assert (rows[:, : ids.shape[1]] & after).any()
    layers = tuple(layer for layer in attending(lmm(name)) if layer)
    with plain.cut(lmm(name, "eager").hf_model, rows, columns, layers):
        return by_eager(name, encoding.inputs, 6)


@both(TINY)
def test_knockout_equals_a_cut_in_transformers_own_mask(name, attention):
    theirs, layers = cut_by_eager(name), tuple(at for at in attending(lmm(name)) if at)
    edit = vi.Knockout(f"{source(name)[0]} -> query generated", layers)
    run = lmm(name, attention).generate(batch(name)[1], graph=edit, max_new_tokens=6)
    whole = untouched(name).sequences[:, : theirs.sequences.shape[1]]
    assert not torch.equal(theirs.sequences, whole), "the cut does nothing"
    assert torch.equal(run.ids, theirs.sequences)
    assert apart(run.logits, torch.stack(theirs.logits, 1)) < NEAR


@cache
def dropped_by_eager(name):
    """Without the flow from a group to the answer, in the layers that attend to everything."""
    ids, full = batch(name)[1].inputs["input_ids"], full_layers(lmm(name))
    new = torch.ones(len(ids), N_DROPPED, dtype=torch.bool)
    rows = torch.cat([torch.zeros_like(ids).bool(), new], 1)
    columns = torch.cat([ids == source(name)[1], ~new], 1)
    with plain.cut(lmm(name, "eager").hf_model, rows, columns, full):
        return by_eager(name, batch(name)[1].inputs, N_DROPPED)


@both(TINY)
def test_dropped_keys_equal_a_cut_in_transformers_own_mask(name, attention):
    """Positions are the family's own, from the whole length of what was read."""
    model, encoding, theirs = lmm(name, attention), batch(name)[1], dropped_by_eager(name)
    group, full = source(name)[0], full_layers(model)
    run = model.generate(encoding, graph=vi.DropKeys(group, full), max_new_tokens=N_DROPPED)
    uncut = torch.stack(untouched(name).logits, 1)
    assert apart(uncut, torch.stack(theirs.logits, 1)) > 0.01, "the cut does nothing"
    assert torch.equal(run.ids, theirs.sequences)
    assert apart(run.logits, torch.stack(theirs.logits, 1)) < NEAR
    if len(full) < model.n_layers:
        with pytest.raises(vi.CapabilityError, match="name other layers"):
            model.generate(encoding, graph=vi.DropKeys(group), max_new_tokens=3)


@both(TINY)
def test_a_question_goes_on_from_the_whole_context(name, attention):
    """Plain transformers go on from their own cache; where that is unverified, it is refused."""
    model, reference, encoding = (
        lmm(name, attention),
        lmm(name, "eager").hf_model,
        encoded(name, "two"),
    )
    spec, question = vi.CompressedContext(1.0), "is the red disc on the left ?"
    if len(full_layers(model)) < model.n_layers or "token_type_ids" in encoding.inputs:
        unfit = r"cut the flow|have not been verified|through cross-attention"
        with pytest.raises((vi.CapabilityError, vi.LayoutError), match=unfit):
            model.compress(encoding, None, spec, max_new_tokens=3)
        return
    context = model.compress(encoding, None, spec, max_new_tokens=3)
    model.run(encoded(name, "one"))  # what the model keeps of its last prompt is another one's now
    run = context.ask([question, "count"], max_new_tokens=6)
    with torch.no_grad():
        cache = reference(**encoding.inputs, use_cache=True).past_key_values
        held = (one.keys.nbytes + one.values.nbytes for one in cache.layers)
        assert [size * encoding.layout.length for size in model.hooked.cache_bytes] == [*held]
        theirs = reference.generate(
            **context.encode(question).inputs, **{CACHE_ARGUMENT: cache}, max_new_tokens=6,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    assert torch.equal(run.generated[0], theirs.sequences[0, -6:])
    assert apart(run.logits[0], torch.stack(theirs.logits, 1)[0]) < NEAR
    few = model.compress(encoding, None, vi.CompressedContext(0.3), max_new_tokens=3)
    assert apart(few.ask(question, max_new_tokens=6).logits[0], run.logits[0]) > 0.1


@both(SHOWN)
def test_var_equals_the_paper_inside_transformers_eager_attention(name, attention):
    encoding = encoded(name, "two")
    reference = lmm(name, "eager").hf_model
    layout = encoding.layout.extend(6)
    masks = [layout.mask(group) for group in ("image", "query generated", "all")]
    shares = {"p": 0.6, "rho": 0.1, "least": 0.05}
    layers = tuple(layer for layer in attending(lmm(name)) if layer < 3)
    with plain.redistributed(reference, *masks, SINKS.dims, SINKS.tau, layers, **shares):
        theirs = reference.generate(
            **encoding.inputs, max_new_tokens=6, return_dict_in_generate=True, output_logits=True
        )
    edit = vi.VAR(p=0.6, rho=0.1, min_image_mass=0.05, layers=layers)
    run = lmm(name, attention).generate(encoding, graph=edit, max_new_tokens=6)
    plain_run = lmm(name, attention).generate(encoding, max_new_tokens=6)
    assert apart(run.logits[:, 0], plain_run.logits[:, 0]) > 0.01, "VAR does nothing"
    assert torch.equal(run.ids, theirs.sequences)
    assert apart(run.logits, torch.stack(theirs.logits, 1)) < NEAR


def test_a_cut_that_empties_a_sliding_window_is_refused():
    """A full layer would keep bos; the window of the last tokens holds nothing else."""
    edit = vi.Knockout("query -> query generated", "2")
    with pytest.raises(vi.LayoutError, match=r"layers \[2\] nothing to attend to"):
        lmm("Gemma 3").generate(encoded("Gemma 3", "text"), graph=edit, max_new_tokens=4)
    full = vi.Knockout("query -> query generated", "1")
    assert lmm("Gemma 3").generate(encoded("Gemma 3", "text"), graph=full, max_new_tokens=4)
