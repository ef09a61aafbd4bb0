"""VAR against restatements in numpy, written from the paper and from its program, row by row."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from tests.restated import VAR as RESTATED
from vsink_interp import kernels


def redistribute(pattern, sink, image, *, p, rho, min_image_mass=0.2, rows=None, mode="paper"):
    """Both kernels, with the meaning that each mode gives p, as `VAR` calls them."""
    moved = p if mode == "paper" else 1 - p
    options = {
        "rho": rho,
        "mode": mode,
        "dtype": torch.promote_types(pattern.dtype, torch.float32),
    }
    terms = kernels.redistribution_terms(sink, image, **options)
    offsets = kernels.redistribution_offsets(image, min_image_mass=min_image_mass, **options)
    return kernels.redistribute(pattern, terms, offsets, moved, rows)


def near_threshold(row, sink, image, rho, least):
    """Whether rounding alone could flip the head's selection."""
    mass, fresh = row[image].sum(), row[image & ~sink].sum()
    ratio = fresh / max(mass, 1e-30)
    other = 1 - row[sink & image].sum() / (mass + 1e-6 * image.sum() + 1e-30)
    return min(abs(mass - least), abs(ratio - rho), abs(other - 1 + rho)) < 1e-5


def draw(seed, batch=2, heads=3, queries=5, keys=12):
    """Causal patterns, sink and image masks that differ by sample, some rows that may change."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(batch, heads, queries, keys)) * rng.choice([0.5, 2, 6])
    causal = np.arange(keys) <= np.arange(keys - queries, keys)[:, None]
    scores = np.where(causal, scores, -np.inf)
    pattern = np.exp(scores - scores.max(-1, keepdims=True))
    pattern /= pattern.sum(-1, keepdims=True)
    image = np.zeros((batch, keys), bool)
    for sample in range(batch):
        begin = rng.integers(0, keys - 4)
        image[sample, begin : begin + rng.integers(1, keys - begin)] = True
    sink = rng.random((batch, keys)) < rng.choice([0.0, 0.2, 0.6])
    rows = rng.random((batch, queries)) < 0.7
    p, rho = rng.choice([0, 1, rng.random()]), rng.choice([0, 1, rng.random(), 0.5])
    least = rng.choice([0.0, 0.2, 0.6])
    return pattern, sink, image, rows, float(p), float(rho), float(least)


def compare(case, mode, dtype=torch.float64, tolerance=1e-12):
    """The largest change that both make; fails where they differ."""
    pattern, sink, image, rows, p, rho, least = case
    got = redistribute(
        torch.tensor(pattern, dtype=dtype),
        torch.tensor(sink),
        torch.tensor(image),
        p=p,
        rho=rho,
        min_image_mass=least,
        rows=torch.tensor(rows),
        mode=mode,
    ).double()
    assert torch.isfinite(got).all()
    moved = 0.0
    for b, h, q in np.ndindex(pattern.shape[:3]):
        row = pattern[b, h, q]
        rounded = torch.tensor(row, dtype=dtype).double().numpy()
        if near_threshold(rounded, sink[b], image[b], rho, least):
            continue
        want = RESTATED[mode](rounded, sink[b], image[b], p, rho, least) if rows[b, q] else rounded
        np.testing.assert_allclose(got[b, h, q], want, atol=tolerance, rtol=0)
        moved = max(moved, float(abs(want - rounded).max()))
    return moved


@pytest.mark.parametrize("mode", RESTATED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_it_equals_the_restatement(mode, dtype, tolerance):
    moved = [compare(draw(seed), mode, dtype, tolerance) for seed in range(60)]
    assert sum(change > 0.01 for change in moved) > 12, "hardly any case moved anything"


@pytest.mark.parametrize("mode", RESTATED)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_rows_keep_their_sum(mode, seed):
    pattern, sink, image, _, p, rho, least = draw(seed)
    before = torch.tensor(pattern)
    after = redistribute(
        before,
        torch.tensor(sink),
        torch.tensor(image),
        p=p,
        rho=rho,
        min_image_mass=least,
        mode=mode,
    )
    torch.testing.assert_close(after.sum(-1), before.sum(-1), atol=1e-12, rtol=0)
    assert (after >= 0).all()
    assert (after[before == 0] == 0).all()


@pytest.mark.parametrize("mode", RESTATED)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), later=st.integers(1, 9))
def test_terms_of_a_longer_room_serve_every_step(mode, seed, later):
    """As a run has them: computed once over tokens yet to come, cut to those that are there."""
    pattern, sink, image, rows, p, rho, least = draw(seed)
    options = {"rho": rho, "mode": mode, "dtype": torch.float64}
    moved = p if mode == "paper" else 1 - p
    offsets = kernels.redistribution_offsets(torch.tensor(image), min_image_mass=least, **options)
    short, room = (
        kernels.redistribution_terms(torch.tensor(x), torch.tensor(y), **options)
        for x, y in ((sink, image), (np.pad(z, ((0, 0), (0, later))) for z in (sink, image)))
    )
    view = room[..., : pattern.shape[-1]]
    assert torch.equal(view, short)
    assert not room[:, 3:, pattern.shape[-1] :].any()
    got = kernels.redistribute(torch.tensor(pattern), view, offsets, moved, torch.tensor(rows))
    want = kernels.redistribute(torch.tensor(pattern), short, offsets, moved, torch.tensor(rows))
    torch.testing.assert_close(got, want, atol=1e-14, rtol=0)


@pytest.mark.parametrize("mode", RESTATED)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_it_equals_the_restatement_wherever_hypothesis_looks(mode, seed):
    compare(draw(seed), mode, torch.float32, 1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), p=st.floats(0, 1), rho=st.floats(0.05, 0.95))
def test_the_modes_agree_once_p_and_rho_are_turned_round(seed, p, rho):
    pattern, sink, image, *_ = draw(seed)
    flat = [
        row
        for b, h, q in np.ndindex(pattern.shape[:3])
        if len(row := pattern[b, h, q]) and image.any()
    ]
    assume((sink & image).any(-1).all())
    assume(all(abs(row[image[0]].sum() - 0.2) > 1e-4 for row in flat))
    ratio = (pattern * (image & ~sink)[:, None, None]).sum(-1) / np.maximum(
        (pattern * image[:, None, None]).sum(-1), 1e-30
    )
    assume(abs(ratio - rho).min() > 1e-3)
    tensors = torch.tensor(pattern), torch.tensor(sink), torch.tensor(image)
    ours = redistribute(*tensors, p=p, rho=rho)
    theirs = redistribute(*tensors, p=1 - p, rho=1 - rho, mode="released-code")
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


ROW = [0.1, 0.2, 0.3, 0.15, 0.25]  # text sink, image sink, image, image, text
MASKS = (
    torch.tensor([[True, True, False, False, False]]),
    torch.tensor([[False, True, True, True, False]]),
)


def one(row, sink=MASKS[0], image=MASKS[1], **options):
    pattern = torch.tensor(row, dtype=torch.float64)[None, None, None]
    return redistribute(pattern, sink, image, **options)[0, 0, 0].tolist()


def test_by_hand_in_the_papers_meaning():
    budget = 0.6 * (0.1 + 0.2)
    assert one(ROW, p=0.6, rho=0.5) == pytest.approx(
        [0.04, 0.08, 0.3 + budget * 2 / 3, 0.15 + budget / 3, 0.25]
    )


def test_by_hand_in_the_released_codes_meaning():
    budget = 0.4 * (0.1 + 0.2)
    assert one(ROW, p=0.6, rho=0.5, mode="released-code") == pytest.approx(
        [0.06, 0.12, 0.3 + budget * 2 / 3, 0.15 + budget / 3, 0.25]
    )


@pytest.mark.parametrize(
    ("mode", "none", "all_of_it"), [("paper", 0.0, 1.0), ("released-code", 1.0, 0.0)]
)
def test_p_at_its_ends(mode, none, all_of_it):
    assert one(ROW, p=none, rho=0.5, mode=mode) == pytest.approx(ROW, abs=0)
    moved = one(ROW, p=all_of_it, rho=0.5, mode=mode)
    assert moved[:2] == [0.0, 0.0]
    assert moved[2] > ROW[2]


@pytest.mark.parametrize(
    ("mode", "loose", "strict"), [("paper", 0.0, 1.0), ("released-code", 1.0, 0.0)]
)
def test_rho_at_its_ends(mode, loose, strict):
    assert one(ROW, p=0.5, rho=loose, mode=mode) != pytest.approx(ROW)
    assert one(ROW, p=0.5, rho=strict, mode=mode) == pytest.approx(ROW, abs=0)


@pytest.mark.parametrize("mode", RESTATED)
def test_a_row_with_nothing_to_receive_the_budget_is_left(mode):
    rho = 0.0 if mode == "paper" else 1.0
    row = [0.2, 0.5, 0.0, 0.0, 0.3]
    assert one(row, p=0.6, rho=rho, mode=mode) == row
    no_fresh = MASKS[1].clone()
    assert one(ROW, sink=no_fresh, p=0.6, rho=rho, mode=mode) == ROW


def test_text_sinks_alone_move_in_the_paper_and_not_in_the_released_code():
    text_only = torch.tensor([[True, False, False, False, False]])
    assert one(ROW, sink=text_only, p=0.6, rho=0.5)[0] == pytest.approx(0.04)
    assert one(ROW, sink=text_only, p=0.6, rho=0.5, mode="released-code") == ROW


def test_sinks_after_the_row_have_no_effect():
    row = [0.3, 0.3, 0.2, 0.2, 0.0]
    later = torch.tensor([[False, True, False, False, True]])
    only = torch.tensor([[False, True, False, False, False]])
    assert one(row, sink=later, p=0.6, rho=0.2) == one(row, sink=only, p=0.6, rho=0.2) != row


@pytest.mark.parametrize("mode", RESTATED)
def test_an_empty_row_stays_empty_and_finite(mode):
    assert one([0.0] * 5, p=0.6, rho=0.5, min_image_mass=0.0, mode=mode) == [0.0] * 5


@pytest.mark.parametrize("mode", RESTATED)
def test_samples_do_not_mix(mode):
    pattern, sink, image, rows, *_ = draw(3, batch=3)
    sink[1] = False
    tensors = [torch.tensor(x) for x in (pattern, sink, image)]
    options = {"p": 0.6, "rho": 0.4, "min_image_mass": 0.05, "mode": mode}
    together = redistribute(*tensors, **options, rows=torch.tensor(rows))
    assert (together != tensors[0]).any(), "nothing moved"
    for i in range(3):
        alone = redistribute(
            *(t[i : i + 1] for t in tensors), **options, rows=torch.tensor(rows[i : i + 1])
        )
        assert (together[i : i + 1] == alone).all()
    assert (together[1] == tensors[0][1]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", RESTATED)
def test_half_precision_stays_near(mode, dtype):
    tolerance = 2e-3 if dtype == torch.float16 else 1.6e-2
    assert max(compare(draw(seed), mode, dtype, tolerance) for seed in range(20)) > 0.05


def test_bad_shares_and_modes_are_refused():
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        one(ROW, p=1.2, rho=0.5)
    with pytest.raises(ValueError, match="released-code"):
        one(ROW, p=0.5, rho=0.5, mode="code")
    assert one(ROW, p=0.5, rho=0.5, min_image_mass=1.0) == ROW, "the whole row is a share too"


HALF = [0.05, 0.05, 0.1, 0.05, 0.0]
"""A row of a head that gives the other three quarters to its learned sink."""


@pytest.mark.parametrize("mode", RESTATED)
@pytest.mark.parametrize(("least", "acts"), [(0.19, True), (0.2, True), (0.21, False)])
def test_image_mass_is_a_share_of_all_attention(mode, least, acts):
    """Not of what the row gives to tokens, of which it is four fifths."""
    rho = 0.0 if mode == "paper" else 1.0
    changed = one(HALF, p=0.5, rho=rho, min_image_mass=least, mode=mode)
    assert (changed != HALF) == acts
    assert sum(changed) == pytest.approx(sum(HALF))
    if acts:
        masks = (mask[0].numpy() for mask in MASKS)
        want = RESTATED[mode](np.array(HALF), *masks, 0.5, rho, least - 1e-9)
        assert changed == pytest.approx(want.tolist())


def test_the_released_ratio_adds_its_constant_whatever_the_image_has():
    """0.2 / (0.4 + 3e-6) of the row is sink: below 0.5, and above half of that of a whole image."""
    row, image = [0.0, 0.2, 0.15, 0.05, 0.6], MASKS[1]
    portion = 0.2 / (0.4 + 3e-6)
    for rho, acts in ((portion + 1e-6, True), (portion - 1e-6, False), (portion, True)):
        changed = one(row, image=image, p=0.5, rho=rho, mode="released-code")
        assert (changed != row) == acts, rho


def test_a_ratio_exactly_at_its_bound_reaches_it():
    row = [0.25, 0.125, 0.25, 0.125, 0.25]
    assert one(row, p=0.5, rho=0.75) != row
    assert one(row, p=0.5, rho=0.75 + 1e-5) == row
    sink = torch.tensor([[True, True, False, False, False]])
    assert one(row, sink=sink, p=0.5, rho=0.25, mode="released-code") != row
    assert one(row, sink=sink, p=0.5, rho=0.25 - 1e-5, mode="released-code") == row


@pytest.mark.parametrize("mode", RESTATED)
def test_a_subnormal_budget_is_left_where_it_is(mode):
    """Dividing by it would leave the range of fp32."""
    rho = 0.0 if mode == "paper" else 1.0
    row = torch.tensor([0.5, 0.5, 1e-39, 0.0, 0.0])[None, None, None]
    options = {"p": 0.5, "rho": rho, "min_image_mass": 0.1, "mode": mode}
    after = redistribute(row, *MASKS, **options)
    assert torch.equal(after, row)
    row[..., 2] = 1e-30
    after = redistribute(row, *MASKS, **options)
    assert after.isfinite().all()
    assert after[0, 0, 0, 2] == pytest.approx(0.5)
