"""Compressed context against plain transformers: eager attention, caches cut by hand."""

from dataclasses import replace

import pytest
import torch
from PIL.Image import Transpose
from transformers import DynamicCache

import vsink_interp as vi
from tests import restated, test_state, tiny
from tests.nodes import apart
from vsink_interp import edits, probes
from vsink_interp.engine.cached_prefix import CACHE_ARGUMENT
from vsink_interp.model.compression import SCORES

QUESTION = "is there a red disc ?"
MARKER = " assistant :"
N_DESCRIBED, N_NEW = 6, 8
NEAR = 1e-5


def description(name="one image"):
    """The plain model's own description: its output, and the number of prompt tokens."""
    inputs = tiny.encode(name).inputs
    with torch.no_grad():
        made = tiny.lmm(attention="eager").hf_model.generate(
            **inputs, max_new_tokens=N_DESCRIBED, return_dict_in_generate=True,
            output_attentions=True, output_hidden_states=True, output_logits=True,
        )  # fmt: skip
    return made, inputs["input_ids"].shape[1]


def patterns(made):
    """A[layer, head, generated token, key]: the row that predicts each generated token."""
    steps = [[layer[0, :, -1] for layer in step] for step in made.attentions]
    length = steps[0][0].shape[-1]
    return torch.stack(
        [torch.stack([step[layer][:, :length] for step in steps], 1) for layer in range(4)]
    )


def contributions(made, length):
    """The norm of A[t, j] x_j W_OV, mean over heads: [layer, generated token, key]."""
    layers, found = tiny.lmm().hooked.layers, []
    width = tiny.WIDTH // tiny.HEADS
    for layer, pattern in enumerate(patterns(made)):
        values = made.past_key_values.layers[layer].values[0, :, :length]
        per_head = []
        for head in range(tiny.HEADS):
            value = values[head // (tiny.HEADS // tiny.KV_HEADS)]
            output = layers[layer].self_attn.o_proj.weight[:, head * width : (head + 1) * width]
            added = (output @ value.T).norm(dim=0)
            per_head.append(pattern[head] * added)
        found.append(torch.stack(per_head).mean(0).detach())
    return torch.stack(found)


def best(name, keep, score):
    """For every layer the image tokens that the paper's rule keeps, ascending."""
    made, length = description(name)
    image = tiny.encode(name).layout.mask("image")[0].nonzero().flatten()
    count = int(keep * len(image))
    rows = contributions(made, length) if score == "contribution" else patterns(made).mean(1)
    chosen = []
    for layer in range(tiny.LAYERS):
        value = rows[layer].mean(0)[image].clone()
        if score == "query-attention":
            value = rows[layer][0][image].clone()
        if score == "norm":
            value = made.hidden_states[0][layer][0, image].norm(dim=-1)
        if score == "attention-without-sinks":
            phi = restated.phi(made.hidden_states[0][layer][0, image], tiny.SINKS.dims)
            value[torch.from_numpy(phi >= tiny.SINKS.tau)] = -1
        order = sorted(range(len(image)), key=lambda j: -float(value[j]))[:count]
        chosen.append([int(image[j]) for j in sorted(order) if value[j] >= 0])
    return chosen


def continued(name, ids, chosen, n_new=N_NEW):
    """Greedy ids and logits of a question after a cache cut by hand, in plain transformers."""
    model, inputs = tiny.lmm(attention="eager").hf_model, tiny.encode(name).inputs
    image = tiny.encode(name).layout.mask("image")[0]
    length = len(image)
    text = [i for i in range(length) if not image[i]]
    rows = []
    with torch.no_grad():
        full = model(**inputs, use_cache=True).past_key_values
        cache = DynamicCache()
        for layer, kept in enumerate(chosen):
            places = sorted(text + kept)
            keys, values = (
                states[:, :, places]
                for states in (full.layers[layer].keys, full.layers[layer].values)
            )
            cache.update(keys, values, layer)
        position, new, held = length, torch.tensor([ids]), len(text) + len(chosen[0])
        answer = []
        for _ in range(n_new):
            held += new.shape[1]
            logits = model(
                input_ids=new,
                **{CACHE_ARGUMENT: cache},
                attention_mask=torch.ones(1, held, dtype=torch.long),
                position_ids=torch.arange(position, position + new.shape[1])[None],
            ).logits[:, -1]
            position += new.shape[1]
            rows.append(logits)
            new = logits.index_fill(1, torch.arange(5), -torch.inf).argmax(-1, keepdim=True)
            answer.append(int(new))
    return answer, torch.stack(rows, 1)


def question_ids(text=QUESTION + MARKER, *, bos=False):
    return tiny.tokenizer()(text, add_special_tokens=bos)["input_ids"]


def compress(name="one image", spec=None, attention="sdpa", **more):
    spec = spec or vi.CompressedContext(0.4)
    encoding = tiny.encode(name)
    return tiny.lmm(attention=attention).compress(
        encoding, None, spec, max_new_tokens=N_DESCRIBED, **more
    )


NAMES = ("one image", "two images", "image last")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_all_kept_is_the_full_context(name, attention):
    """keep=1: plain transformers go on from the prompt's own cache with the question's ids."""
    model, inputs = tiny.lmm(attention="eager").hf_model, tiny.encode(name).inputs
    length = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([question_ids()])], 1)
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        assert cache.get_seq_length() == length
        plain = model.generate(
            input_ids=ids, max_new_tokens=N_NEW, return_dict_in_generate=True,
            output_logits=True, **{CACHE_ARGUMENT: cache},
        )  # fmt: skip
    context = compress(name, vi.CompressedContext(1.0), attention)
    run = context.ask(QUESTION, max_new_tokens=N_NEW)
    assert torch.equal(run.ids, plain.sequences)
    assert apart(run.logits, torch.stack(plain.logits, 1)) < NEAR


RULES = [
    (s, k) for s in ("attention", "contribution", "query-attention", "norm") for k in (0.4, 0.7)
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("score", "keep"), RULES)
def test_kept_tokens_and_answers_equal_a_cache_cut_by_hand(score, keep, name, attention):
    chosen = best(name, keep, score)
    assert len(set(map(tuple, chosen))) > 1, "all layers keep the same"
    context = compress(name, vi.CompressedContext(keep, score), attention)
    image = context.encoding.layout.mask("image")[0]
    assert [(row & image).nonzero().flatten().tolist() for row in context.kept] == chosen
    assert (context.kept | image).all(), "the prompt's text stays"
    run = context.ask(QUESTION, max_new_tokens=N_NEW)
    ids, logits = continued(name, question_ids(), chosen)
    assert run.generated[0].tolist() == ids
    assert apart(run.logits, logits) < NEAR
    everything = compress(name, vi.CompressedContext(1.0), attention)
    whole = everything.ask(QUESTION, max_new_tokens=N_NEW)
    assert apart(run.logits, whole.logits) > 0.1, "nothing was lost"


def test_sinks_are_never_kept_where_they_are_left_out():
    spec = vi.CompressedContext(1.0, "attention-without-sinks")
    context = compress(spec=spec)
    image = context.encoding.layout.mask("image")[0]
    chosen = [(row & image).nonzero().flatten().tolist() for row in context.kept]
    assert chosen == best("one image", 1.0, "attention-without-sinks")
    counts = context.tokens_kept.image
    assert len(set(counts)) > 1, "no layer has sinks of its own"
    assert max(counts) < tiny.N_IMAGE
    assert f"{min(counts)} to {max(counts)}" in str(context.tokens_kept)
    run = context.ask(QUESTION, max_new_tokens=N_NEW)
    whole = compress(spec=vi.CompressedContext(1.0)).ask(QUESTION, max_new_tokens=N_NEW)
    assert apart(run.logits, whole.logits) > 0.01


def test_blocks_that_keep_different_numbers_equal_a_mask():
    """The whole cache, with what was not kept hidden from the question by eager attention."""
    context = compress(spec=vi.CompressedContext(1.0, "attention-without-sinks"))
    run = context.ask(QUESTION, max_new_tokens=N_NEW)
    kept, length = context.kept, context.cached_prefix.length

    def scores(layer, table):
        hidden = torch.zeros(table.shape[-2:], dtype=torch.bool)
        hidden[length:, :length] = ~kept[layer]
        return table.masked_fill(hidden, -torch.inf)

    inputs = dict(context.encoding.inputs)
    first = torch.cat([inputs["input_ids"], torch.tensor([question_ids()])], 1)
    ids = first
    for step in range(N_NEW):
        logits = restated.forward(tiny.lmm(attention="eager").hf_model, inputs, ids, scores=scores)[
            :, -1
        ]
        assert apart(run.logits[:, step], logits) < 2 * NEAR
        likeliest = logits.index_fill(1, torch.arange(5), -torch.inf).argmax(-1, keepdim=True)
        ids = torch.cat([ids, likeliest], 1)
    assert torch.equal(run.ids, ids)


def test_random_tokens_are_a_control():
    first, again, other = (
        compress(spec=vi.CompressedContext(0.5, "random", seed=seed)).kept for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(row.tolist()) for row in first}) > 1, "all layers draw the same"
    assert first.sum(-1).unique().numel() == 1


def test_a_random_choice_depends_on_the_image():
    image, prompt = tiny.PROMPTS["one image"]
    other = image.transpose(Transpose.FLIP_LEFT_RIGHT)
    assert other.tobytes() != image.tobytes()
    spec = vi.CompressedContext(0.5, "random")
    here, again, there = (
        tiny.lmm().compress(shown, prompt, spec, max_new_tokens=2).kept_patches
        for shown in (image, image.copy(), other)
    )
    assert torch.equal(here, again)
    assert all((a != b).any() for a, b in zip(here, there, strict=True)), "some layer repeats"


def test_strategies():
    image = tiny.encode().layout.mask("image")[0]
    both = compress(spec=vi.CompressedContext(0.4)).kept
    text = compress(spec=vi.CompressedContext(strategy="q"))
    best_alone = compress(spec=vi.CompressedContext(0.4, strategy="s"))
    assert torch.equal(text.kept, (~image).expand(4, -1))
    assert torch.equal(best_alone.kept, both & image)
    runs = [c.ask(QUESTION, max_new_tokens=3).logits for c in (text, best_alone)]
    runs.append(compress(spec=vi.CompressedContext(0.4)).ask(QUESTION, max_new_tokens=3).logits)
    assert min(apart(a, b) for i, a in enumerate(runs) for b in runs[:i]) > 0.1
    ids, logits = continued("one image", question_ids(), [[]] * 4, 3)
    assert text.ask(QUESTION, max_new_tokens=3).generated[0].tolist() == ids
    assert apart(runs[0], logits) < NEAR


def test_token_counts_are_those_of_the_paper():
    counts = compress("two images", vi.CompressedContext(0.3)).tokens_kept
    n_text = int(tiny.encode("two images").layout.mask("prompt & ~image").sum())
    assert counts.image == (int(0.3 * 18),) * 4 == (5,) * 4
    assert (counts.query, counts.n_image, counts.full) == (n_text, 18, n_text + 18)
    assert counts.total == n_text + 5
    assert counts.per_layer == (n_text + 5,) * 4
    assert 5 <= counts.distinct <= 18
    assert str(counts) == (
        f"query {n_text} + image 5 of 18 = {n_text + 5} tokens of {n_text + 18} "
        f"({(n_text + 18) / (n_text + 5):.1f}x fewer)"
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("score", SCORES)
def test_several_questions_equal_one_by_one(score, attention):
    context = compress("two images", vi.CompressedContext(0.5, score), attention)
    questions = [QUESTION, "count", "what is the big blue square on the left ?"]
    together = context.ask(questions, max_new_tokens=N_NEW)
    assert isinstance(together.text, list)
    for i, question in enumerate(questions):
        alone = context.ask(question, max_new_tokens=N_NEW)
        assert torch.equal(together.generated[i], alone.generated[0])
        assert apart(together.logits[i], alone.logits[0]) < 2 * NEAR
    assert len(set(together.text)) > 1


def test_a_number_of_tokens_in_the_place_of_a_share():
    context = compress(spec=vi.CompressedContext(count=3))
    assert context.tokens_kept.image == (3,) * tiny.LAYERS
    share = compress(spec=vi.CompressedContext(3.5 / 9))
    assert torch.equal(context.kept, share.kept)
    with pytest.raises(vi.InputError, match="keeps 10 of 9 image tokens"):
        compress(spec=vi.CompressedContext(count=10))


def test_one_description_serves_several_contexts():
    specs = [vi.CompressedContext(0.4), vi.CompressedContext(0.4, "contribution")]
    together = compress(spec=specs)
    for spec, context in zip(specs, together, strict=True):
        assert torch.equal(context.kept, compress(spec=spec).kept)
        assert context.run is together[0].run
    assert torch.equal(
        together[0].run.ids, tiny.lmm().generate(tiny.encode(), max_new_tokens=N_DESCRIBED).ids
    )


def test_the_released_codes_bos_is_an_option():
    context = compress(spec=vi.CompressedContext(1.0))
    run = context.ask(QUESTION, bos=True, max_new_tokens=N_NEW)
    chosen = [context.encoding.layout.mask("image")[0].nonzero().flatten().tolist()] * 4
    ids, logits = continued("one image", question_ids(bos=True), chosen)
    assert run.generated[0].tolist() == ids
    assert apart(run.logits, logits) < NEAR
    assert str(run.layout).count("bos[1]") == 2
    raw = context.ask(QUESTION + MARKER, chat=False, max_new_tokens=N_NEW)
    assert torch.equal(raw.ids, context.ask(QUESTION, max_new_tokens=N_NEW).ids)


# Edits and probes of a question count keys by token.


def test_probes_of_a_question_name_the_right_keys():
    context = compress(spec=vi.CompressedContext(0.4))
    pattern, mass = probes.Pattern(), probes.SegmentMass()
    run = context.ask(QUESTION, pattern | mass | probes.AttentionMaps(), max_new_tokens=4)
    length, rows = context.cached_prefix.length, run[pattern].labels("query")
    assert rows == tuple(range(length, length + len(question_ids()) + 3))
    values = run[pattern].values[:, 0]
    zero = (values[..., :length] == 0).all(2).all(1)
    assert torch.equal(zero, ~context.kept)
    torch.testing.assert_close(values.sum(-1), torch.ones(values.shape[:-1]), atol=2e-6, rtol=0)
    image = run.layout.mask("image")[0, : values.shape[-1]]
    torch.testing.assert_close(
        run[mass].at(segment="image").values[:, 0], values[..., image].sum(-1)
    )
    maps = run[probes.AttentionMaps()].values[:, 0]
    assert torch.equal((maps != 0).all(1), context.kept_patches)


def test_an_edit_of_a_question_acts():
    context = compress(spec=vi.CompressedContext(0.7))
    plain, blind = (
        context.ask(QUESTION, graph, max_new_tokens=4)
        for graph in (None, vi.Knockout("image -> query generated"))
    )
    assert apart(plain.logits, blind.logits) > 0.1
    alone = compress(spec=vi.CompressedContext(strategy="q")).ask(QUESTION, max_new_tokens=4)
    assert apart(blind.logits, alone.logits) < NEAR


def test_a_description_may_be_edited():
    graph = vi.Knockout("image -> generated") | probes.AttentionMaps()
    blind, plain = (compress(graph=g) for g in (graph, None))
    assert blind.run.ids.tolist() != plain.run.ids.tolist()
    assert not torch.equal(blind.kept, plain.kept)


# What could not act is refused.


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: vi.CompressedContext(0.0), "above 0 and up to 1"),
        (lambda: vi.CompressedContext(1.5), "above 0 and up to 1"),
        (lambda: vi.CompressedContext(0.2, count=3), "from 1 on, in the place of keep"),
        (lambda: vi.CompressedContext(count=0), "from 1 on"),
        (lambda: vi.CompressedContext(score="best"), "choose from: attention, attention-without"),
        (lambda: vi.CompressedContext(strategy="sq"), "choose from: qs, q, s"),
        (lambda: vi.CompressedContext(0.3, strategy="q"), "keeps no image token"),
        (lambda: vi.CompressedContext(seed=3), "a seed belongs to"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(make, word):
    with pytest.raises(vi.NotationError, match=word):
        make()


def test_what_cannot_be_compressed_is_refused():
    lmm = tiny.lmm()
    with pytest.raises(vi.InputError, match="less than one of 9 image tokens"):
        lmm.compress(tiny.encode(), None, max_new_tokens=2)
    with pytest.raises(vi.InputError, match="one prompt at a time"):
        lmm.compress(tiny.batch(), None)
    with pytest.raises(vi.InputError, match="leave with_answer out"):
        lmm.compress(tiny.encode().with_answer("red disc"), None)
    with pytest.raises(vi.LayoutError, match="no image"):
        lmm.compress(tiny.encode("text"), None)
    with pytest.raises(vi.CapabilityError, match="take DropKeys out"):
        lmm.compress(tiny.encode(), None, vi.CompressedContext(0.5), vi.DropKeys("image"))


@pytest.mark.parametrize(
    ("graph", "error", "word"),
    [
        (vi.DropKeys("image"), vi.CapabilityError, "choose what that context keeps"),
        (vi.VAR(), vi.CapabilityError, "has none"),
        (edits.Contrast(prompt="count"), vi.CapabilityError, "has read it already"),
        (vi.Fn("vision_projector.hook_out", lambda x, hook: x), vi.LayoutError, "no image"),  # noqa: ARG005
    ],
    ids=str,
)
def test_what_cannot_act_on_a_question_is_refused(graph, error, word):
    with pytest.raises(error, match=word):
        compress().ask(QUESTION, graph)


def test_positions_of_a_family_of_its_own_are_refused():
    lmm = tiny.fresh()
    lmm.hooked.config.rope_parameters["mrope_section"] = [4, 2, 2]
    with pytest.raises(vi.CapabilityError, match="mRoPE"):
        lmm.compress(tiny.encode(), None, vi.CompressedContext(0.5))
    kinds = {"token_type_ids": torch.zeros(1, 22, dtype=torch.long)}
    encoding = replace(tiny.encode(), inputs={**tiny.encode().inputs, **kinds})
    with pytest.raises(vi.CapabilityError, match="token_type_ids"):
        tiny.lmm().compress(encoding, None, vi.CompressedContext(0.5))


def test_cut_off_images_cannot_be_named():
    with pytest.raises(vi.LayoutError, match="no image token"):
        compress(spec=vi.CompressedContext(strategy="q")).ask(
            QUESTION, edits.AddScores("image", 1.0)
        )


def test_an_encoded_question_is_for_generate():
    context = compress()
    encoding = context.encode(QUESTION)
    run = tiny.lmm().generate(encoding, max_new_tokens=3)
    assert torch.equal(run.ids, context.ask(QUESTION, max_new_tokens=3).ids)
    with pytest.raises(vi.CapabilityError, match="continues a compressed context"):
        tiny.lmm().run(encoding)
    with pytest.raises(vi.InputError, match="none may be empty"):
        context.ask(" ")


def test_asking_leaves_nothing():
    lmm = tiny.fresh()
    context = lmm.compress(tiny.encode(), None, vi.CompressedContext(0.5), max_new_tokens=3)
    before = test_state.state(lmm)
    keys = [states.clone() for states in context.cached_prefix.keys]
    first = context.ask(QUESTION, max_new_tokens=4)
    assert torch.equal(context.ask(QUESTION, max_new_tokens=4).logits, first.logits)
    assert test_state.state(lmm) == before
    assert all(map(torch.equal, keys, context.cached_prefix.keys))
    first = context.ask(QUESTION, max_new_tokens=4)
    assert torch.equal(context.ask(QUESTION, max_new_tokens=4).logits, first.logits)
    assert test_state.state(lmm) == before
    assert all(map(torch.equal, keys, context.cached_prefix.keys))


def test_the_layout_of_a_context_keeps_separators():
    """Mistral 3 ends the rows of an image with tokens that are no patches of it."""
    model = vi.LMM.tiny("Mistral 3")
    context = model.compress(tiny.image(1), "count", vi.CompressedContext(0.9), max_new_tokens=3)
    asked, known = context.encode("what is this ?").layout, context.encoding.layout
    assert known.mask("separator").any()
    for group in ("separator", "image & ~separator", "query & separator"):
        first = asked.mask(group)[:, : known.length]
        assert torch.equal(first, known.mask(group)), group
    assert not asked.mask("separator")[:, known.length :].any()


def test_an_image_of_which_nothing_was_kept_cannot_be_named():
    context = compress("two images", vi.CompressedContext(0.9))
    known = context.encoding.layout
    kept = context.cached_prefix.kept & ~known.mask("image[0]")[0]
    without = replace(context, cached_prefix=replace(context.cached_prefix, kept=kept))
    layout = without.encode("count").layout
    assert torch.equal(layout.mask("image")[:, : known.length], known.mask("image[1]"))
    with pytest.raises(vi.LayoutError, match=r"no image\[0\] token"):
        layout.check_flow("image[0] -> query")
    layout.check_flow("image[1] -> query")
