"""Training of the small LMM, on tiny parts: what is packed, hidden, updated, merged and resumed."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

import vsink_interp as vi
from vsink_interp.small import align, lessons, train
from vsink_interp.small.align import Projector
from vsink_interp.small.decoder import Decoder
from vsink_interp.small.features import Statistics, patch_features
from vsink_interp.small.lora import Lora, merge, saved
from vsink_interp.small.model import part, save_adapter
from vsink_interp.small.packing import PATCHES, PREFIX, Writer
from vsink_interp.small.parts import END, IMAGE, START
from vsink_interp.small.prose import Prose
from vsink_interp.small.scenes import photo_scene
from vsink_interp.toy import scene
from vsink_interp.toy.data import free_patches
from vsink_interp.toy.language import Question, words

WIDTH, LAYERS = 48, 10


@cache
def tokenizer():
    known = ["<unk>", START, END, IMAGE, *words()]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, "<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def language():
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=WIDTH, intermediate_size=64,
        num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaModel(config).eval()


def tiny_parts():
    torch.manual_seed(4)
    tower = Dinov2Config(
        hidden_size=16, num_hidden_layers=5, num_attention_heads=2, mlp_ratio=2, image_size=112,
        patch_size=14,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    photos = tuple(rng.uniform(0, 255, (90, 80, 3)).astype(np.float32) for _ in range(2))
    vision = Dinov2Model(tower).requires_grad_(False).eval()
    return lessons.Parts(Decoder.of(language()), tokenizer(), vision, photos, Writer(tokenizer()))


def updates(parts):
    """Updates that are not zero."""
    torch.manual_seed(5)
    lora = Lora(parts.model.config)
    for parameter in lora.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return lora


def merged(parts, lora):
    model = language()
    model.load_state_dict(merge(parts.model.state_dict(), saved(lora.state_dict())))
    return model


def test_a_turn_reads_as_in_a_conversation_of_its_own():
    """Also: the updates beside the weights are those that are merged into them."""
    parts = tiny_parts()
    lora, image = updates(parts), torch.randn(1, PATCHES, WIDTH)
    turns = [parts.writer.turn(question) for question in scene(3).questions]
    packed = parts.writer.pack([turns])
    model, table = merged(parts, lora), parts.model.embed_tokens.weight
    with torch.no_grad():
        found = lessons.logits_at_labels(parts, packed, image, lora)
        frozen = lessons.logits_at_labels(parts, packed, image, None)
        assert (found - frozen).abs().max() > 0.01
        expected, labels = [], []
        for turn in turns:
            tokens = torch.tensor([*turn.query, *turn.answer[:-1]])
            rows = torch.cat([table[parts.writer.start][None], image[0], table[tokens]])
            final = model(inputs_embeds=rows[None]).last_hidden_state[0]
            expected.append(final[-len(turn.answer) :] @ table.T)
            labels += turn.answer
    assert packed.labels[packed.labels >= 0].tolist() == labels
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-4, rtol=1e-4)


def test_one_mask_a_layer():
    parts = tiny_parts()
    packed = parts.writer.pack([[parts.writer.turn(one) for one in scene(3).questions]])
    rows, seen = torch.randn(*packed.ids.shape, WIDTH), packed.visible()
    closed = seen & ~((packed.turn > 0)[:, :, None] & (packed.turn == 0)[:, None, :])
    with torch.no_grad():
        one = parts.decoder.states(rows, packed.position, seen)
        same = parts.decoder.states(rows, packed.position, torch.stack([seen] * LAYERS))
        last = torch.stack([seen] * (LAYERS - 1) + [closed])
        cut = parts.decoder.states(rows, packed.position, last)
    assert all(map(torch.equal, one, same))
    assert torch.equal(cut[-2], one[-2])
    text = packed.turn > 0
    assert not torch.allclose(cut[-1][text], one[-1][text])
    torch.testing.assert_close(cut[-1][~text], one[-1][~text])


def test_rows_of_a_blind_caption_do_not_see_the_image():
    writer = Writer(tokenizer())
    caption = Question("caption", "describe the image", scene(3).caption)
    turns = [writer.turn(caption, blind=True), writer.turn(scene(3).questions[0])]
    packed = writer.pack([turns])
    seen = packed.visible()[0, :, 1:PREFIX].any(1)
    generated = (
        PREFIX + len(turns[0].query),
        PREFIX + len(turns[0].query) + len(turns[0].answer) - 1,
    )
    assert not seen[slice(*generated)].any()
    assert seen[PREFIX : generated[0]].all(), "its question does"
    assert seen[generated[1] :].all(), "other turns do"
    assert packed.visible()[0, :, 0].all(), "the first token is no part of it"


def test_turns_fill_the_room_and_weigh_what_the_scene_tells():
    writer, rng = Writer(tokenizer()), np.random.default_rng(0)
    turns = writer.training(scene(5), rng, room=120, captions=1.0, blind=0.0)
    used = sum(len(turn.query) + len(turn.answer) - 1 for turn in turns)
    assert 90 < used <= 120
    assert len({turn.query for turn in turns}) == len(turns), "no question twice"
    heavy = [
        token
        for token, weight in zip(turns[0].answer, turns[0].weights, strict=True)
        if weight > 0.3
    ]
    told = tokenizer().decode(heavy).split()
    names = [name for thing in scene(5).objects for name in (thing.color, thing.shape)]
    assert told == [*names, scene(5).background]


def test_photographs_lie_behind_the_objects_alone():
    photos = tiny_parts().photos
    for seed in range(4):
        plain, mixed = scene(seed), photo_scene(seed, photos, always=True)
        before, after = (np.asarray(one.image, float) for one in (plain, mixed))
        held = plain.masks.any(0)
        assert np.array_equal(before[held], after[held])
        assert np.abs(before - after)[~held].mean() > 5
        assert mixed.caption == plain.caption
    again = photo_scene(3, photos, always=True)
    assert np.array_equal(np.asarray(mixed.image), np.asarray(again.image))
    assert any(photo_scene(seed, photos).image == scene(seed).image for seed in range(30))


def test_statistics_whiten_and_anchors_have_their_deviation():
    torch.manual_seed(0)
    mixing = torch.randn(12, 12) * torch.logspace(-1, 1, 12)
    features = torch.randn(200, PATCHES, 12) @ mixing + 3
    free = torch.rand(200, PATCHES) < 0.8
    found = Statistics.of(features, free)
    inputs = (features.flatten(0, 1) - found.mean) @ found.basis
    spread = inputs.var(0)
    assert spread.max() < 1.01
    assert torch.corrcoef(inputs.T).fill_diagonal_(0).abs().max() < 0.02
    anchors = found.anchors(features[free], 0, 0.02, 64)
    assert float(anchors.std()) == pytest.approx(0.02, rel=0.1)
    assert torch.equal(anchors, found.anchors(features[free], 0, 0.02, 64))
    assert not torch.allclose(anchors, found.anchors(features[free], 1, 0.02, 64))


def test_the_folded_projector_is_the_same_map(tmp_path):
    torch.manual_seed(0)
    features = torch.randn(50, PATCHES, 12) * torch.logspace(-1, 1, 12) + 1
    projector = Projector(12, 16)
    projector.start(Statistics.of(features, torch.ones(50, PATCHES, dtype=torch.bool)))
    save_adapter(tmp_path / "a.safetensors", projector.folded(), {})
    from safetensors.torch import load_file

    weights = part(load_file(tmp_path / "a.safetensors"), "projector.")
    first = features @ weights["linear_1.weight"].T + weights["linear_1.bias"]
    second = torch.nn.functional.gelu(first) @ weights["linear_2.weight"].T
    expected = projector(features).detach()
    torch.testing.assert_close(second + weights["linear_2.bias"], expected, atol=0.02, rtol=0.02)


def test_the_learning_rate_warms_up_and_ends_at_zero():
    recipe = train.Recipe(steps=100, warmup=10, decay=0.4, lr=1.0)
    rates = [recipe.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:60] == [1.0] * 50
    assert rates[80] == pytest.approx(0.5)
    assert rates[100] == 0


def small_run(out, monkeypatch, *, stop=None, threads=1):
    """Four steps in a folder, or until the step that fails."""
    parts, loss = tiny_parts(), train.scene_loss
    ids = torch.randint(4, len(tokenizer()), (4, 8), generator=torch.Generator().manual_seed(0))

    def failing(parts, trainee, *rest):
        if trainee.step == stop:
            raise KeyboardInterrupt
        return loss(parts, trainee, *rest)

    out.mkdir(exist_ok=True)
    with monkeypatch.context() as patched:
        patched.setattr(train.Parts, "load", lambda: parts)
        patched.setattr(train, "_POOL", 128)
        patched.setattr(train, "write_prose", lambda *_: ids)
        patched.setattr(train, "sinks_a_scene", lambda *_: "")
        patched.setattr(train, "look", lambda *_: "")
        patched.setattr(train, "scene_loss", failing)
        made = train.Recipe(
            steps=4, room=60, align_steps=3, warmup=1, prose_every=2, blind_from=0.0,
            lower_until=1.0,
        )  # fmt: skip
        train.train(out, made, save_every=2, threads=threads)
    return torch.load(out / "checkpoint.pt", weights_only=True)


def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    """To the last bit, and on another number of cores."""
    whole = small_run(tmp_path / "whole", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "cut", monkeypatch, stop=3)
    resumed = small_run(tmp_path / "cut", monkeypatch, threads=2)
    assert whole["step"] == resumed["step"] == 4
    for kind in ("projector", "lora"):
        for name, value in whole[kind].items():
            assert torch.equal(value, resumed[kind][name]), name
    assert any(value.abs().max() > 0 for name, value in whole["lora"].items() if "/up" in name)


def test_prose_holds_the_lm_to_what_it_was():
    """The divergence from the frozen LM: 0 without updates, and numpy's with them."""
    parts, lora = tiny_parts(), updates(tiny_parts())
    ids = torch.randint(4, len(tokenizer()), (9, 9), generator=torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(2) as pool:
        prose, projector = Prose.of(parts.decoder, ids, pool), Projector(4, WIDTH)
    numbers = np.random.default_rng((4, 23)).permutation(9)[:3].tolist()
    assert prose.drawn(4) == numbers
    fresh, changed = Lora(parts.model.config), lessons.Trainee.of(projector, lora)
    before = lessons.prose_loss(parts, lessons.Trainee.of(projector, fresh), prose, numbers)
    assert float(before.detach()) == pytest.approx(0, abs=1e-6)
    loss = sum(
        lessons.prose_loss(parts, changed, prose, some) for some in (numbers[:2], numbers[2:])
    )
    loss.backward()
    assert all(factor.grad.abs().max() > 0 for factor in lora.factors.values())
    read = ids[numbers]
    told = []
    for model in (parts.model, merged(parts, lora)):
        with torch.no_grad():
            logits = (model(read).last_hidden_state @ parts.model.embed_tokens.weight.T).double()
        told.append(logits.numpy() - np.log(np.exp(logits.numpy()).sum(-1, keepdims=True)))
    wanted = (np.exp(told[0]) * (told[0] - told[1])).sum(-1).mean()
    assert wanted > 0.01
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-4)


def test_a_folder_is_of_one_recipe(tmp_path):
    """Of more or fewer steps, but not of another projection in part, with the old alignment."""
    path = tmp_path / "recipe.json"
    train.Recipe().keep(path)
    train.Recipe(steps=7).keep(path)
    with pytest.raises(vi.errors.InputError, match=r"run with projection 0, seed 0: .*folder"):
        train.train(tmp_path, train.Recipe(projection=1, seed=2))
    assert list(tmp_path.iterdir()) == [path], "nothing was begun"


def test_sinks_that_training_tells_are_those_of_its_definition(monkeypatch):
    """In numpy, on a model of which dimension 507 of the first image token is large."""
    parts, image = tiny_parts(), torch.randn(2, PATCHES, 600)
    image[0, :3, 507], image[1, 5, 507] = 90.0, -90.0
    packs = []

    def states(rows, position, mask, lora):
        packs.append((position, mask, lora))
        return [rows] * 30

    monkeypatch.setattr(Decoder, "states", lambda _self, *given: states(*given))
    with torch.no_grad():
        parts.model.embed_tokens.weight = torch.nn.Parameter(torch.randn(len(tokenizer()), 600))
    resid = image.numpy()
    phi = np.abs(resid[..., 507]) / np.sqrt((resid**2).mean(-1))
    wanted = f"{(phi >= 20).sum(1).mean():.1f}"
    assert wanted == "2.0"
    assert train.sinks_a_scene(parts, image, None) == " ".join([wanted] * 3)
    position, mask, _ = packs[0]
    assert position.tolist() == [list(range(PREFIX))] * 2
    assert torch.equal(mask, torch.ones(2, PREFIX, PREFIX, dtype=torch.bool).tril())


def test_the_gradient_reaches_the_projector_through_objects_alone_unless_it_is_the_control():
    parts = tiny_parts()
    scenes, features, free = parts.drawn(1_000_000, 2)
    assert torch.equal(free, free_patches(scenes))
    statistics = Statistics.of(parts.drawn(1_000_000, 24)[1], parts.drawn(1_000_000, 24)[2])
    for anchored in (True, False):
        projector = Projector(features.shape[-1], WIDTH)
        seen = []

        def watch(_module, _inputs, made, seen=seen):
            made.register_hook(seen.append)

        projector.register_forward_hook(watch)
        trainee = lessons.Trainee.of(projector, updates(parts))
        recipe = train.Recipe(steps=4, room=60, anchored=anchored)
        lesson = lessons.Lesson.of(parts, recipe, 0)
        for number in range(2):
            lessons.scene_loss(parts, trainee, recipe, statistics, lesson, number)[
                "answers"
            ].backward()
        gradient = torch.cat(seen)
        assert gradient[~free].abs().max() > 0
        assert bool(gradient[free].abs().max() > 0) is not anchored


@pytest.mark.parametrize("threads", [0, 5])
def test_a_step_has_work_for_so_many_threads(threads, tmp_path):
    with pytest.raises(vi.errors.InputError, match="a step is shared by 1 to 4"):
        train.train(tmp_path, train.Recipe(), threads=threads)
    assert not list(tmp_path.iterdir())


def test_the_shares_of_a_step_are_its_whole_loss():
    """Answers over all labels of both scenes in one batch, anchors over both backgrounds."""
    parts, recipe = tiny_parts(), train.Recipe(steps=9, room=60, captions=1.0, blind_from=0.0)
    size = 2 * parts.vision.config.hidden_size
    torch.manual_seed(5)
    pool = torch.randn(40, PATCHES, size)
    statistics = Statistics.of(pool, torch.ones(40, PATCHES, dtype=torch.bool))
    projector = Projector(size, WIDTH)
    projector.start(statistics)
    trainee = lessons.Trainee.of(projector, updates(parts))
    lesson = lessons.Lesson.of(parts, recipe, 0)
    shares = [
        lessons.scene_loss(parts, trainee, recipe, statistics, lesson, number)
        for number in range(2)
    ]
    features = patch_features(parts.vision, lesson.scenes)
    packed, made = parts.writer.pack(lesson.turns), projector(features)
    told = packed.labels >= 0
    logits = lessons.logits_at_labels(parts, packed, made, trainee.lora)
    surprise = -logits.log_softmax(-1).gather(1, packed.labels[told][:, None])[:, 0]
    answers = (surprise * packed.weights[told]).sum() / packed.weights.sum()
    anchors = statistics.anchors(features, 0, align.ANCHOR_STD, WIDTH)
    off = ((made - anchors) / align.ANCHOR_STD)[lesson.free].square().mean() * recipe.anchor
    for name, whole in (("answers", answers), ("anchors", off)):
        torch.testing.assert_close(sum(share[name] for share in shares), whole)
    assert lesson.free[0].sum() != lesson.free[1].sum()


def test_alignment_asks_for_words_at_centres_and_anchors_behind():
    scenes = [scene(seed) for seed in range(2)]
    vectors = {}
    torch.manual_seed(0)
    for word in words():
        vectors[word] = torch.randn(8)
    target, centred = align.word_targets(scenes, vectors)
    assert centred.sum() == sum(len(one.objects) for one in scenes)
    thing = scenes[0].objects[0]
    patch = int(thing.centre[1] // 8) * 8 + int(thing.centre[0] // 8)
    row, column = thing.place.split()
    expected = 0.75 * (vectors[thing.color] + vectors[thing.shape])
    expected += 0.6 * (vectors[row] + vectors[column])
    assert centred[0, patch]
    torch.testing.assert_close(target[0, patch], expected)
    assert not (centred & free_patches(scenes)).any()
