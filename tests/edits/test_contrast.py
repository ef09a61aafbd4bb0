"""Contrast against full passes of plain transformers without a cache, and numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import restated, tiny
from tests.nodes import apart
from tests.test_state import failing_edit, state
from vsink_interp import kernels
from vsink_interp.edits import Contrast, recipes
from vsink_interp.probes import Logits

PREFIX = "you are a big blue friend"
KINDS = {
    "noise": Contrast("noise", seed=5),
    "no image": Contrast("none"),
    "prefix": Contrast(prefix=PREFIX),
    "question": Contrast(prompt="count the red disc"),
    "noise and prefix": Contrast("noise", prefix=PREFIX, alpha=0.5, beta=0.3, step=999),
}
N, IMAGE = 6, 4


def free(attention="sdpa"):
    """A model that may say any token but an image: the constraint must leave some."""
    lmm = tiny.fresh(attention)
    lmm.hf_model.generation_config.suppress_tokens = [IMAGE]
    return lmm


@pytest.fixture(scope="module")
def lmm():
    return free()


@pytest.fixture(scope="module")
def eager():
    return free("eager").hf_model


def noised(pixels, seed, step, n_images):
    """VCD's diffusion, restated: one step of noise after another would give the same variance."""
    kept = 1.0
    for i in range(step + 1):
        x = -6 + 12 * i / 999
        kept *= 1 - (1e-5 + (5e-3 - 1e-5) / (1 + np.exp(-x)))
    draws = [
        torch.randn(pixels.shape[1:], generator=torch.Generator().manual_seed(1000 * seed + k))
        for k in range(max(n_images))
    ]
    noise = torch.stack([d for n in n_images for d in draws[:n]])
    return np.sqrt(kept) * pixels + np.sqrt(1 - kept) * noise


def spoilt(name, encoding, lmm):
    """Inputs of the second pass, by the processor alone."""
    texts, n_images = list(encoding.prompts), [len(p) for p in encoding.images]
    images = [p for row in encoding.images for p in row]
    if name == "question":
        texts = ["user : " + "<image> " * n + "count the red disc assistant :" for n in n_images]
    if "prefix" in name:
        texts = [f"{PREFIX} {text}" for text in texts]
    if name == "no image":
        texts, images = [text.replace("<image>", "") for text in texts], None
    inputs = dict(
        lmm.processor(text=texts, images=images, padding=True, padding_side="left",
                      return_tensors="pt")
    )  # fmt: skip
    if "noise" in name:
        edit = KINDS[name]
        inputs["pixel_values"] = noised(inputs["pixel_values"], edit.seed, edit.step, n_images)
    return inputs


def combined(first, second, edit):
    first, second = first.double().numpy(), second.double().numpy()
    shares = np.exp(first - first.max(-1, keepdims=True))  # of the best token's probability
    new = (1 + edit.alpha) * first - edit.alpha * second
    return np.where(shares < edit.beta, -np.inf, new)


def by_hand(hf_model, inputs, spoiled, edit, n, edits=None, second_edits=None, end=None):
    """Greedy ids and contrasted logits: two whole passes per token."""
    rows, answer = [], inputs["input_ids"][:, :0]
    over = torch.zeros(len(answer), 1, dtype=torch.bool)
    for _ in range(n):
        passes = []
        for given, changes in ((inputs, edits), (spoiled, second_edits)):
            ids = torch.cat([given["input_ids"], answer], 1)
            passes.append(restated.forward(hf_model, given, ids, **(changes or {}))[:, -1])
        rows.append(combined(*passes, edit))
        likely = np.where(np.arange(rows[-1].shape[1]) == IMAGE, -np.inf, rows[-1])
        token = torch.from_numpy(likely.argmax(-1))[:, None]
        answer = torch.cat([answer, token.masked_fill(over, 0)], 1)
        over = over | (token == end)
    return answer, np.stack(rows, 1)


def close(found, wanted):
    found, finite = found.numpy(), np.isfinite(wanted)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    np.testing.assert_allclose(found[finite], wanted[finite], atol=1e-4)


@pytest.mark.parametrize("prompts", [("one image",), ("two images", "short", "image last")])
@pytest.mark.parametrize("name", KINDS)
def test_it_equals_two_whole_passes_per_token(name, prompts, lmm, eager):
    encoding, edit = tiny.batch(*prompts), KINDS[name]
    wanted, logits = by_hand(eager, encoding.inputs, spoilt(name, encoding, lmm), edit, N)
    run = lmm.generate(encoding, graph=edit, max_new_tokens=N)
    assert torch.equal(run.generated, wanted)
    close(run.logits, logits)
    plain = lmm.generate(encoding, max_new_tokens=N)
    assert not torch.equal(plain.generated, wanted), "the contrast did nothing to the answer"


def test_an_answer_that_ends_early_does_not_disturb_the_others(lmm, eager):
    encoding, edit = tiny.batch("two images", "one image", "short"), KINDS["noise"]
    spoiled = spoilt("noise", encoding, lmm)
    never, _ = by_hand(eager, encoding.inputs, spoiled, edit, N)
    end = next(int(row[2]) for row in never if row[2] not in row[:2])
    wanted, _ = by_hand(eager, encoding.inputs, spoiled, edit, N, end=end)
    run = lmm.generate(encoding, graph=edit, max_new_tokens=N, eos_token_id=end)
    assert torch.equal(run.generated, wanted)
    lengths = run.layout.mask("generated").sum(-1).tolist()
    assert lengths == [row.index(end) + 1 if end in row else N for row in never.tolist()]
    assert min(lengths) <= 3 < max(lengths)


@pytest.mark.parametrize("edited", [False, True])
def test_it_composes_with_var(edited, lmm, eager):
    """As in Kang et al. (2025): VAR in the first pass, and in the second where it is told so."""
    encoding = tiny.batch("one image", "short")
    var = vi.VAR(p=0.6, rho=0.5, min_image_mass=0.1)
    edit = Contrast("noise", beta=0.0, seed=5, edited=edited)
    shares = {"p": var.p, "rho": var.rho, "least": var.min_image_mass}
    by_var = restated.redistribution(
        encoding.layout, "paper", range(3), tiny.SINKS.dims, tiny.SINKS.tau, **shares
    )
    spoiled = spoilt("noise", encoding, lmm)
    second = by_var if edited else None
    wanted, logits = by_hand(eager, encoding.inputs, spoiled, edit, N, by_var, second)
    run = lmm.generate(encoding, graph=var | edit, max_new_tokens=N)
    assert torch.equal(run.generated, wanted)
    close(run.logits, logits)
    for alone in (var, replace(edit, edited=False)):
        other = lmm.generate(encoding, graph=alone, max_new_tokens=N)
        assert apart(other.logits[:, 0], run.logits[:, 0]) > 1e-3


def test_the_second_pass_has_edits_of_its_own(lmm, eager):
    """As in ASCD: attention raised in the first pass, cut in the second, nothing else distorted."""
    encoding = tiny.batch("one image", "short")
    cut = vi.Knockout("image -> query generated", "1:")
    first = vi.VAR(p=0.6, rho=0.5, min_image_mass=0.1)
    shares = {"p": first.p, "rho": first.rho, "least": first.min_image_mass}
    by_var = restated.redistribution(
        encoding.layout, "paper", range(3), tiny.SINKS.dims, tiny.SINKS.tau, **shares
    )
    by_cut = restated.knockout(encoding.layout, ["image"], ["query", "generated"], range(1, 4))
    edit = Contrast(graph=cut, alpha=0.7, beta=0.0)
    wanted, logits = by_hand(eager, encoding.inputs, encoding.inputs, edit, N, by_var, by_cut)
    run = lmm.generate(encoding, graph=first | edit, max_new_tokens=N)
    assert torch.equal(run.generated, wanted)
    close(run.logits, logits)
    assert vi.EditGraph.from_json((first | edit).to_json()) == first | edit
    assert eval(repr(edit), {"Contrast": Contrast, "Knockout": vi.Knockout}) == edit


def test_sinks_that_only_the_second_pass_needs_are_found(lmm):
    encoding = tiny.encode()
    edit = Contrast("noise", beta=0.0, graph=vi.Knockout("sink & image -> query generated"))
    apart_from = lmm.generate(encoding, graph=Contrast("noise", beta=0.0), max_new_tokens=2)
    run = lmm.generate(encoding, graph=edit, max_new_tokens=2)
    assert apart(run.logits[:, 0], apart_from.logits[:, 0]) > 1e-3


def test_a_knockout_follows_into_a_prompt_of_another_length(lmm, eager):
    encoding, edit = tiny.encode(), Contrast(prefix=PREFIX, beta=0.0, edited=True)
    other = lmm.encode(tiny.image(0), f"{PREFIX} {encoding.prompts[0]}", chat=False)
    cut = [
        restated.knockout(tokens, ["image"], ["query", "generated"], range(1, 4))
        for tokens in (encoding.layout, other.layout)
    ]
    wanted, logits = by_hand(eager, encoding.inputs, other.inputs, edit, N, *cut)
    knockout = vi.Knockout("image -> query generated", "1:")
    run = lmm.generate(encoding, graph=knockout | edit, max_new_tokens=N)
    assert torch.equal(run.generated, wanted)
    close(run.logits, logits)


def test_a_prefix_stands_behind_a_bos_token_that_the_template_writes():
    begun = vi.LMM(tiny.hf_model(), tiny.processor("<s>" + tiny.TEMPLATE), sinks=tiny.SINKS)
    first, second = (m.encode(*tiny.PROMPTS["short"]) for m in (tiny.lmm(), begun))
    assert torch.equal(first.inputs["input_ids"], second.inputs["input_ids"])
    edit = Contrast(prefix=PREFIX, beta=0.0)
    wanted = tiny.lmm().run(first, graph=edit).logits
    assert torch.equal(begun.run(second, graph=edit).logits, wanted)


@pytest.mark.parametrize("edited", [False, True])
def test_a_shortened_cache_gives_what_the_knockout_gives(edited, lmm):
    contrast, n = Contrast("noise", beta=0.0, edited=edited), 5
    encoding = tiny.batch("one image", "short")
    dropped, cut = (
        lmm.generate(encoding, graph=edit | contrast, max_new_tokens=n)
        for edit in (vi.DropKeys("image"), vi.Knockout("image -> generated"))
    )
    assert torch.equal(dropped.ids, cut.ids)
    assert apart(dropped.logits, cut.logits) < 1e-4
    alone = replace(contrast, edited=False)
    other = lmm.generate(encoding, graph=alone, max_new_tokens=n)
    assert apart(dropped.logits, other.logits) > 0.1


def test_run_contrasts_the_last_prompt_row_alone(lmm):
    edit, plain = KINDS["prefix"], tiny.plain(lmm, tiny.encode())
    run = lmm.run(tiny.encode(), graph=edit)
    first = lmm.generate(tiny.encode(), graph=edit, max_new_tokens=1)
    assert torch.equal(run.logits[:, :-1], plain[:, :-1])
    close(first.logits[:, 0], run.logits[:, -1].numpy())
    assert run.logits[:, -1].isinf().any()


def test_a_probe_before_it_sees_the_plain_logits(lmm):
    edit, probe = KINDS["noise"], Logits("query")
    run = lmm.run(tiny.encode(), graph=probe | edit | probe)
    before, after = (run[f"{probe!r}#{i}"].values for i in (1, 2))
    assert torch.equal(before[:, -1], tiny.plain(lmm, tiny.encode())[:, -1])
    assert torch.equal(after[:, -1], run.logits[:, -1])
    assert not torch.equal(before, after)


def test_without_difference_or_constraint_no_bit_changes(lmm):
    torch.manual_seed(0)
    plain = lmm.generate(tiny.batch(), max_new_tokens=4, do_sample=True)
    torch.manual_seed(0)
    edit = Contrast("noise", alpha=0.0, beta=0.0)
    run = lmm.generate(tiny.batch(), graph=edit, max_new_tokens=4, do_sample=True)
    assert torch.equal(run.ids, plain.ids)
    assert torch.equal(run.logits, plain.logits)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_the_difference_of_two_plain_passes(dtype, attention):
    lmm, encoding = tiny.lmm(dtype, attention), tiny.encode()
    edit = Contrast("noise", beta=0.0, seed=5)
    spoiled = spoilt("noise", encoding, lmm)
    with torch.no_grad():
        first, second = (lmm.hf_model(**x).logits[:, -1] for x in (encoding.inputs, spoiled))
    run = lmm.run(encoding, graph=edit)
    assert run.logits.dtype == dtype
    wanted = 2 * first.float() - second.float()
    assert apart(run.logits[:, -1], wanted) < 20 * torch.finfo(dtype).eps
    assert apart(first, wanted) > 0.1


def test_the_noise_follows_its_seed_and_step(lmm):
    def logits(**more):
        return lmm.run(tiny.encode(), graph=Contrast("noise", beta=0.0, **more)).logits[:, -1]

    assert torch.equal(logits(seed=1), logits(seed=1))
    assert apart(logits(seed=1), logits(seed=2)) > 0.01
    assert apart(logits(step=100), logits(step=500)) > 0.01


def test_images_of_one_prompt_get_noise_of_their_own():
    pixels = torch.zeros(3, 3, 14, 14)
    first, second, other = Contrast("noise").spoiled(pixels, [2, 1])
    assert torch.equal(first, other), "a batch is as its samples alone"
    assert apart(first, second) > 0.1


def test_tiles_and_patches_of_an_image_get_the_noise_that_it_gets_alone():
    tiles, edit = torch.zeros(2, 5, 3, 14, 14), Contrast("noise", seed=2)
    both = edit.spoiled(tiles, [1, 1])
    assert torch.equal(both[0], both[1])
    assert torch.equal(both[:, :2], edit.spoiled(tiles[:, :2], [1, 1])), "empty tiles may follow"
    assert apart(both[0, 0], both[0, 1]) > 0.1
    patches = torch.zeros(4 + 6 + 4, 20)
    flat = edit.spoiled(patches, [2, 1], [4, 6, 4])
    assert torch.equal(flat[:4], flat[10:])
    assert apart(flat[:4], flat[4:8]) > 0.1


def test_noise_replaces_the_image_step_by_step():
    one, none = torch.ones(1), torch.zeros(1)
    kept = [float(kernels.diffuse(one, none, step)) for step in (0, 500, 999)]
    noise = [float(kernels.diffuse(none, one, step)) for step in (0, 500, 999)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 0.99
    assert kept[2] < 0.3
    np.testing.assert_allclose(np.square(kept) + np.square(noise), 1, atol=1e-6)


def test_a_sample_without_an_image_keeps_its_logits(lmm):
    encoding = tiny.batch("one image", "text")
    plain, run = (lmm.run(encoding, graph=graph).logits for graph in (None, KINDS["noise"]))
    assert torch.equal(plain[1], run[1])
    assert not torch.equal(plain[0], run[0])


@pytest.mark.parametrize("name", KINDS)
def test_it_leaves_nothing_behind(name):
    lmm = tiny.fresh()
    lmm.run(tiny.encode())
    before, plain = state(lmm), tiny.plain(lmm, tiny.encode())
    lmm.generate(tiny.encode(), graph=KINDS[name], max_new_tokens=3)
    assert state(lmm) == before
    assert torch.equal(tiny.plain(lmm, tiny.encode()), plain)


def test_an_error_in_the_second_pass_leaves_nothing_behind():
    lmm = tiny.fresh()
    lmm.run(tiny.encode())
    before, contrast = state(lmm), Contrast("noise", edited=True)
    fail = failing_edit("attn.hook_pattern", KeyboardInterrupt())  # the second pass comes first
    with pytest.raises(KeyboardInterrupt):
        lmm.generate(tiny.encode(), graph=fail | contrast, max_new_tokens=3)
    assert state(lmm) == before
    run = lmm.generate(tiny.encode(), graph=vi.VAR(rho=0.2) | contrast, max_new_tokens=3)
    assert run.generated.shape[1] == 3
    assert state(lmm) == before


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Contrast, "distorts nothing"),
        (lambda: Contrast("nois"), "did you mean 'noise'"),
        (lambda: Contrast("noise", alpha=-1.0), "at least 0"),
        (lambda: Contrast("noise", alpha=float("inf")), "at least 0"),
        (lambda: Contrast("noise", beta=1.5), "share from 0 to 1"),
        (lambda: Contrast("noise", step=1000), "0 to 999"),
        (lambda: Contrast("none", step=100), "belong to the noise"),
        (lambda: Contrast(prefix=PREFIX, seed=1), "belong to the noise"),
        (lambda: Contrast(graph=vi.probes.SegmentMass()), "is none"),
        (lambda: Contrast(graph=Contrast("noise")), "is none"),
        (lambda: Contrast(graph=vi.DropKeys("image"), edited=True), "write them all into graph="),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_is_written(make, why):
    with pytest.raises(vi.NotationError, match=why):
        make()


def test_edits_that_are_not_there_cannot_follow_into_the_second_pass(lmm):
    edit = Contrast(prefix=PREFIX, edited=True)
    with pytest.raises(vi.NotationError, match="leave edited=False"):
        lmm.run(tiny.encode(), graph=edit | vi.probes.SegmentMass())
    assert lmm.run(tiny.encode(), graph=edit | vi.Knockout("image -> query")).text


def test_what_cannot_be_spoiled_is_refused(lmm):
    with pytest.raises(vi.LayoutError, match="no image token"):
        lmm.run(tiny.encode("text"), graph=Contrast("noise"))
    with pytest.raises(vi.CapabilityError, match="inside attention"):
        steer = vi.edits.SetDims((3,), 1.0)
        lmm.run(tiny.encode(), graph=steer | Contrast("noise", edited=True))
    with pytest.raises(vi.CapabilityError, match="inside attention"):
        lmm.run(tiny.encode(), graph=Contrast(graph=steer))
    with pytest.raises(vi.LayoutError, match="no image token"):
        lmm.run(tiny.encode("text"), graph=Contrast(graph=vi.Knockout("image -> query")))
    top = vi.Knockout("top(image,2,1) -> query")
    with pytest.raises(vi.CapabilityError, match=r"top\(image,2,1\) is found in the prompt of"):
        lmm.run(tiny.encode(), graph=Contrast(prefix=PREFIX, graph=top))
    with pytest.raises(vi.CapabilityError, match="which belongs to which"):
        Contrast("noise").spoiled(torch.zeros(7, 5), [1, 1])


RAW = "user : left <image> right <image> what is this ? assistant :"
OTHER = "user : compare <image> to this <image> count assistant :"


@pytest.mark.parametrize("image", [None, "none"])
def test_another_question_takes_the_form_of_the_encoding(image, lmm, eager):
    images = [tiny.image(0), tiny.image(1)]
    encoding, edit = lmm.encode(images, RAW, chat=False), Contrast(image, prompt=OTHER, beta=0.0)
    text = OTHER.replace("<image>", "") if image else OTHER
    spoiled = dict(
        lmm.processor(text=[text], images=None if image else images, return_tensors="pt")
    )
    wanted, logits = by_hand(eager, encoding.inputs, spoiled, edit, N)
    run = lmm.generate(encoding, graph=edit, max_new_tokens=N)
    assert torch.equal(run.generated, wanted)
    close(run.logits, logits)
    in_chat = lmm.encode([] if image else images, text).inputs
    assert in_chat["input_ids"].shape != spoiled["input_ids"].shape


def test_another_raw_question_says_where_the_images_go(lmm):
    encoding = lmm.encode([tiny.image(0), tiny.image(1)], RAW, chat=False)
    for prompt in ("count", "count <image>"):
        with pytest.raises(vi.InputError, match=r"chat=False.*<image> for each of the 2"):
            lmm.run(encoding, graph=Contrast(prompt=prompt))


def test_a_kept_context_is_refused(lmm):
    spec = vi.CompressedContext(1.0)
    context = lmm.compress(*tiny.PROMPTS["one image"], spec, max_new_tokens=3)
    with pytest.raises(vi.CapabilityError, match="ask with the whole prompt"):
        context.ask("count", Contrast(prefix=PREFIX), max_new_tokens=2)


def test_inference_mode_gives_the_same(lmm):
    wanted = lmm.generate(tiny.encode(), graph=KINDS["noise"], max_new_tokens=3)
    with torch.inference_mode():
        encoding = lmm.encode(*tiny.PROMPTS["one image"])
        run = lmm.generate(encoding, graph=KINDS["noise"], max_new_tokens=3)
    assert torch.equal(run.logits, wanted.logits)


def test_recipes_are_lines_of_it():
    assert recipes.vcd(seed=2) == Contrast("noise", alpha=1.0, beta=0.1, step=500, seed=2)
    assert recipes.icd().prefix == "You are a confused object detector."
    assert recipes.icd("You guess.", alpha=0.5) == Contrast(prefix="You guess.", alpha=0.5)


def test_a_prefix_needs_no_image(lmm):
    """Noise has to be made of an image; a text is contrasted with another text."""
    asked = tiny.PROMPTS["text"]
    plain = lmm.generate(*asked, max_new_tokens=1).logits
    edited = lmm.generate(*asked, Contrast(prefix=PREFIX), max_new_tokens=1).logits
    assert apart(edited, plain) > 0.1
    with pytest.raises(vi.LayoutError, match="image"):
        lmm.generate(*asked, Contrast("noise"), max_new_tokens=1)


def test_padding_of_an_image_gets_no_noise():
    """Each image is spoiled as if it were alone, though a batch pads it right and at the bottom."""
    edit, sizes = Contrast("noise", seed=2), [(5, 7), (6, 4)]
    alone = [torch.rand(1, 3, *size) for size in sizes]
    batch = torch.full((2, 3, 6, 7), 9.0)
    for pixels, one, (y, x) in zip(batch, alone, sizes, strict=True):
        pixels[:, :y, :x] = one
    found = edit.spoiled(batch, [1, 1], areas=sizes)
    for pixels, one, (y, x) in zip(found, alone, sizes, strict=True):
        assert apart(pixels[:, :y, :x], noised(one, 2, edit.step, [1])[0]) < 1e-6
        pixels[:, :y, :x] = 9.0
    assert torch.equal(found, torch.full_like(found, 9.0))
