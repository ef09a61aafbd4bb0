"""A pack is exactly its separate conversations, and the training pass is the model's own."""

from dataclasses import replace

import numpy as np
import torch

from vsink_interp.toy.data import draw, free_patches, patch_targets, patch_words, pixel_values
from vsink_interp.toy.forward import Watch, embed, trace
from vsink_interp.toy.language import COLORS, NUMBERS, SHAPES
from vsink_interp.toy.losses import FactReadout, PlaceReadout, grounding_loss, massive, seed_sinks
from vsink_interp.toy.model import build_model, build_tokenizer
from vsink_interp.toy.packing import CONTEXT, GENERATED, IGNORE, QUERY, visible
from vsink_interp.toy.scenes import TRAINING_SEED, scene
from vsink_interp.toy.schedule import Stage
from vsink_interp.toy.train import language_losses, layer_masks, learning_rate


def examples(*, words=False, number=0, mentions=False):
    return draw(
        build_tokenizer(),
        number,
        3,
        questions=4,
        first_weight=4.0,
        words=words,
        mentions=mentions,
    )


def conversation(batch, row, turn):
    """Where the prefix and one turn lie in a row."""
    return (batch.turn[row] == 0) | (batch.turn[row] == turn)


@torch.no_grad()
def test_packs_equal_separate_conversations():
    model = build_model().eval()
    for words in (False, True):
        made = examples(words=words)
        batch = made.batch
        masks = [visible(batch)] * model.config.text_config.num_hidden_layers
        traced = trace(model, embed(model, batch.ids, made.pixels), batch.position, masks)
        packed = model.lm_head(traced.final)
        for row in range(3):
            for turn in range(1, int(batch.turn[row].max()) + 1):
                here = conversation(batch, row, turn)
                pixels = None if words else made.pixels[row : row + 1]
                alone = model(input_ids=batch.ids[row, here][None], pixel_values=pixels).logits[0]
                assert torch.allclose(packed[row, here], alone, atol=2e-5)
                assert packed[row, here].std() > 0.01


def test_labels_are_the_next_tokens_of_the_answer():
    tokenizer, batch = build_tokenizer(), examples().batch
    one = scene(TRAINING_SEED)
    told = batch.labels[0, (batch.turn[0] == 1) & (batch.labels[0] != IGNORE)]
    assert tokenizer.decode(told) == one.caption + " </s>"
    answers = {q.answer for q in one.questions}
    for turn in range(2, int(batch.turn[0].max()) + 1):
        here = batch.turn[0] == turn
        labels = batch.labels[0, here]
        assert tokenizer.decode(labels[labels != IGNORE], skip_special_tokens=True) in answers
        assert batch.weights[0, here].max() == 4.0
        assert (batch.role[0, here][labels != IGNORE][0]) == QUERY


def test_sources_are_the_patches_that_tell():
    tokenizer, made = build_tokenizer(), examples(mentions=True)
    vocabulary, batch = tokenizer.get_vocab(), made.batch
    words = patch_words([scene(TRAINING_SEED + n) for n in range(3)], vocabulary)
    rows, columns = (batch.source >= 0).nonzero(as_tuple=True)
    told = 0
    for row, column in zip(rows, columns, strict=True):
        patch = words[row, batch.source[row, column] - 3]
        label = batch.labels[row, column]
        if label == IGNORE:
            assert batch.role[row, column] == QUERY
            assert batch.ids[row, column] == patch[3] and batch.ids[row, column - 1] == patch[2]
        elif tokenizer.decode(label) not in ("yes", "no"):
            assert label in patch, (tokenizer.decode(label), tokenizer.decode(patch))
            told += 1
    assert told >= 2 * sum(len(scene(TRAINING_SEED + n).objects) for n in range(3))


@torch.no_grad()
def test_attention_to_sources_is_the_models():
    model, made = build_model().eval(), examples()
    batch = made.batch
    masks = [visible(batch)] * 8
    embedded = embed(model, batch.ids, made.pixels)
    watch = Watch(batch.source, (3,))
    (found,) = trace(model, embedded, batch.position, masks, watch).found
    model.set_attn_implementation("eager")
    here = conversation(batch, 0, 1)
    pattern = model(
        input_ids=batch.ids[0, here][None], pixel_values=made.pixels[:1], output_attentions=True
    ).attentions[3][0]
    source = batch.source[0, here]
    asked = (source >= 0).nonzero().flatten()
    alone = pattern[:, asked, source[asked]].T
    assert torch.allclose(found[: len(asked)], alone, atol=1e-5)
    traced = trace(model, embedded, batch.position, masks, watch)
    assert grounding_loss(traced, heads=2) > 0.5


@torch.no_grad()
def test_stray_attention_is_that_to_idle_patches_without_sinks():
    model, made = build_model().eval(), examples()
    batch = made.batch
    masks = [visible(batch)] * 8
    embedded = embed(model, batch.ids, made.pixels)
    idle = (batch.role == CONTEXT) & (batch.turn == 0)
    every = Watch(idle=idle, rows=batch.turn > 0, first_layer=7)
    watched = trace(model, embedded, batch.position, masks, every)
    plain = trace(model, embedded, batch.position, masks)
    assert torch.allclose(watched.final, plain.final, atol=1e-5)
    assert 0.1 < watched.stray < 0.95
    none = replace(every, idle=torch.zeros_like(idle))
    assert trace(model, embedded, batch.position, masks, none).stray == 0
    massive_bos = embedded.clone()
    massive_bos[:, 0, 5] = massive_bos[:, 10, 5] = 50.0
    kept = trace(model, massive_bos, batch.position, masks, every).stray
    spared = idle.clone()
    spared[:, 10] = False
    without = replace(every, idle=spared)
    assert torch.isclose(trace(model, massive_bos, batch.position, masks, without).stray, kept)


def test_facts_decide_the_answer():
    tokenizer, seen = build_tokenizer(), set()
    for number in range(12):
        batch = examples(number=number).batch
        for row, column in (batch.facts >= 0).any(-1).nonzero():
            first, second, left, count, asked = batch.facts[row, column].tolist()
            answer = tokenizer.decode(batch.labels[row, column])
            if first != IGNORE:
                assert answer == ("yes" if (first < second) == bool(left) else "no")
                seen.add("relation")
            elif asked != IGNORE:
                assert answer == ("yes" if count + 2 == asked + 1 else "no")
                seen.add("count")
            else:
                assert answer == NUMBERS[count + 2]
                seen.add("how-many")
    assert seen == {"relation", "count", "how-many"}


def test_batches_follow_from_their_number():
    first, again, other = examples(number=5), examples(number=5), examples(number=6)
    assert torch.equal(first.batch.ids, again.batch.ids)
    assert torch.equal(first.pixels, again.pixels)
    assert first.pixels.shape == other.pixels.shape and not torch.equal(first.pixels, other.pixels)


def test_closed_layers_hide_the_image_from_text_rows():
    batch = examples().batch
    stage = Stage(
        "t", "language", steps=1, batch=3, lr=1.0, lr_end=1.0,
        no_head=1.0, blind_answer=1.0, closed_early=1.0, closed_late=0.0,
    )  # fmt: skip
    masks = layer_masks(batch, stage, 8, np.random.default_rng(0))
    context = (batch.role == CONTEXT) & (batch.turn == 0)
    seen = [(mask & context[:, None, :]).any(-1) for mask in masks]
    asked = (batch.role == QUERY) & (batch.turn > 0)
    assert [bool(rows[asked].any()) for rows in seen] == [False, False] + [True] * 6
    assert not any(rows[batch.role == GENERATED].any() for rows in seen)
    assert all(
        torch.equal(mask & context[:, :, None], visible(batch) & context[:, :, None])
        for mask in masks
    )
    assert not masks[4][0, batch.turn[0] > 0][:, :3].any()
    assert all(mask.diagonal(dim1=1, dim2=2).all() for mask in masks)


def test_sink_seeding_moves_phi_of_free_patches_alone():
    made = examples()
    model = build_model()
    masks = [visible(made.batch)] * 8

    def run():
        return trace(model, embed(model, made.batch.ids, made.pixels), made.batch.position, masks)

    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        traced = run()
        loss = seed_sinks(traced, made.batch, made.free)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    resid = torch.stack(run().resid_pre[2:-1]).detach()
    unit = resid * resid.square().mean(-1, keepdim=True).rsqrt()
    phi = unit[..., massive(unit[:, 0, 0])].abs().amax(-1).mean(0)
    image = phi[made.batch.role == CONTEXT].view(3, 64)
    top = image.topk(3).indices
    assert made.free.gather(1, top).float().mean() > 0.8
    assert phi[:, 0].min() > image.mean()


def test_patch_targets_name_the_centred_object():
    one = scene(TRAINING_SEED + 4)
    color, shape = patch_targets([one], tuple(COLORS), SHAPES)
    free = free_patches([one])
    assert (color[free] == len(COLORS)).all() and (shape[free] == len(SHAPES)).all()
    named = (color >= 0) & (color < len(COLORS))
    assert int(named.sum()) == len(one.objects)
    found = {(tuple(COLORS)[c], SHAPES[s]) for c, s in zip(color[named], shape[named], strict=True)}
    assert found == {(o.color, o.shape) for o in one.objects}


def test_pixel_values_are_the_processors():
    assert pixel_values([scene(0)]).shape == (1, 3, 64, 64)
    assert pixel_values([scene(0)]).min() >= -1


def test_a_step_has_the_terms_of_its_stage():
    model, rng = build_model(), np.random.default_rng(0)
    places = PlaceReadout(96), FactReadout(96)
    plain = Stage("t", "language", steps=100, batch=3, lr=2.0, lr_end=1.0, warmup=10)
    loud = replace(
        plain, head_penalty=1.0, sink_weight=1.0, grounding=1.0, stray=1.0, places=1.0, facts=1.0
    )
    spoken = examples(mentions=True)
    assert set(language_losses(model, spoken, plain, rng, places)) == {"answer"}
    terms = language_losses(model, spoken, loud, rng, places)
    assert set(terms) == {"answer", "heads", "sinks", "grounding", "stray", "places", "facts"}
    assert all(value > 0 for value in terms.values())
    told = language_losses(model, examples(words=True), loud, rng, places)
    assert set(told) == {"answer", "heads", "facts"}


def test_learning_rate_warms_up_and_decays():
    stage = Stage("t", "language", steps=100, batch=3, lr=2.0, lr_end=1.0, warmup=10)
    assert learning_rate(stage, 0) < learning_rate(stage, 9) <= 2.0
    assert learning_rate(stage, 10) == 2.0
    assert abs(learning_rate(stage, 100) - 1.0) < 1e-9
    assert learning_rate(replace(stage, cosine_steps=200), 100) > 1.4
