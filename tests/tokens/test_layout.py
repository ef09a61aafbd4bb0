"""Token layouts against sets of positions."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

import vsink_interp as vi
from tests.tokens.test_groups import unions
from vsink_interp.tokens.groups import SEGMENTS, Group
from vsink_interp.tokens.layout import CODE

SPANS = (vi.ImageSpan((1, 2)), vi.ImageSpan((2, 2), (10.0, 20.0, 50.0, 40.0)))


def layout(words: str, images: str = "", roles: str = "") -> vi.TokenLayout:
    """A layout of one sample from letters: p(ad) b(os) s(ystem) i(mage) q(uery) g(enerated)."""
    letters = {name[0]: CODE[name] for name in SEGMENTS} | {"p": 0}
    index = [int(c) if c.isdigit() else -1 for c in images.ljust(len(words))]
    role = [c == "r" for c in roles.ljust(len(words))]
    n_prompt = len(words.rstrip("g"))
    return vi.TokenLayout(
        torch.tensor([[letters[c] for c in words]]),
        torch.tensor([index]),
        torch.tensor([role]),
        (SPANS,),
        n_prompt,
        torch.tensor([[c == "|" for c in roles.ljust(len(words))]]),
    )


ONE = layout("ppbssiiqiiiiqqg", "     00 1111   ", "   r   |  | r ")


def test_it_prints_what_the_prompt_is_made_of():
    assert str(ONE) == (
        "pad[2] bos[1] system[2] image[1x2=2] query[1] image[2x2=4] query[2] generated[1]"
    )
    assert str(ONE.first(14)).endswith("query[2] generated[...]")


def belongs(place: int, group, sinks: set[int]) -> bool:
    """Whether a token is in a group, told from the letters alone."""
    words, images, roles = "ppbssiiqiiiiqqg", "     00 1111   ", "   r   |  | r "
    letter = words[place]

    def true(term) -> bool:
        found = {
            "sink": place in sinks,
            "role": roles.ljust(15)[place] == "r",
            "separator": roles.ljust(15)[place] == "|",
            "all": True,
            "prompt": letter != "g",
            "first": place == words.index("b"),
            "last": place == words.rindex("q"),
        }.get(term.word, letter == term.word[0])
        if term.number is not None:
            found = term.word == "image" and images[place] == str(term.number)  # no video, no turns
        return found != term.negated

    return letter != "p" and any(all(map(true, terms)) for terms in group.unions)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(union=unions, sinks=st.sets(st.integers(0, 14)))
def test_masks_are_the_sets_that_the_notation_says(union, sinks):
    group = Group(union)
    sink = torch.tensor([[i in sinks for i in range(15)]])
    got = ONE.mask(group, sink=sink)[0].tolist()
    assert got == [belongs(i, group, sinks) for i in range(15)]
    assert ONE.mask(str(group), sink=sink)[0].tolist() == got


def test_sinks_must_be_given():
    with pytest.raises(vi.LayoutError, match="depends on the layer"):
        ONE.mask("sink & image")


@pytest.mark.parametrize(
    ("flow", "why"),
    [
        ("image -> generated", None),
        ("bos -> image", None),
        ("image[1] -> query", None),
        ("sink -> all", None),
        ("image[2] -> query", r"no image\[2\] token; it is: pad\[2\] bos\[1\]"),
        ("image & query -> bos", "no token of this prompt is 'image & query'"),
        ("image -> role & image", "no token of this prompt is 'role & image'"),
        ("image -> generated & image query", "no token of this prompt is 'generated & image'"),
        ("bos -> bos", r"nothing to attend to at positions \[2\]"),
        ("bos system -> system", r"nothing to attend to at positions \[3, 4\]"),
        ("all -> query", r"positions \[7, 12, 13\]"),
        ("all -> generated", r"positions \[14\]"),
        ("prompt -> generated", None),
        ("image[1] -> image[0]", "can see a token of .*nothing flows there"),
    ],
)
@pytest.mark.parametrize("length", [14, 15])
def test_a_flow_is_checked_against_the_prompt(flow, why, length):
    asked = ONE.first(length)
    if why is None:
        asked.check_flow(flow)
    else:
        with pytest.raises(vi.LayoutError, match=why):
            asked.check_flow(flow)


def test_one_pass_over_a_prompt_has_no_generated_token():
    prompt = ONE.first(14)
    for flow in ("image -> generated", "image -> generated & ~query"):
        with pytest.raises(vi.LayoutError, match="use generate"):
            prompt.check_flow(flow, generates=False)
        prompt.check_flow(flow, first_token=True, generates=False)
        ONE.check_flow(flow, generates=False)
    prompt.check_flow("image -> query generated", generates=False)
    prompt.check_flow("last -> generated", first_token=True, generates=False)


def test_the_first_token_counts_among_the_blind():
    lone = layout("bq")
    lone.check_flow("prompt -> generated")
    with pytest.raises(vi.LayoutError, match=r"positions \[1\]"):
        lone.check_flow("prompt -> generated", first_token=True)


def test_a_blind_row_of_any_sample_is_refused():
    two = vi.TokenLayout(
        torch.cat([ONE.segments[:, 2:4], torch.tensor([[0, CODE["query"]]])]),
        torch.full((2, 2), -1),
        torch.zeros(2, 2, dtype=torch.bool),
        ((), ()),
        2,
    )
    with pytest.raises(vi.LayoutError, match="nothing to attend to"):
        two.check_flow("query -> query")


def test_layouts_grow_shrink_and_select():
    grown = ONE.extend(3)
    assert (grown.length, grown.prompt_length) == (18, 14)
    assert grown.mask("generated")[0].tolist() == [False] * 14 + [True] * 4
    assert (grown.first(15).segments == ONE.segments).all()
    ended = grown.without(torch.tensor([[False] * 16 + [True] * 2]))
    assert ended.mask("generated").sum() == 2
    assert ended.mask("all").sum() == 14
    twice = vi.TokenLayout(
        ONE.segments.repeat(2, 1), ONE.image_index.repeat(2, 1), ONE.roles.repeat(2, 1),
        (SPANS, ()), 14,
    )  # fmt: skip
    assert twice.select([1]).images == ((),)
    assert twice.select([0]).batch == 1
    assert twice.to("cpu").length == 15


def test_places_of_a_shorter_sample_end_with_minus_one():
    one, other = layout("pbqq"), layout("bqqq")
    parts = (
        torch.cat([getattr(each, name) for each in (one, other)])
        for name in ("segments", "image_index", "roles")
    )
    both = vi.TokenLayout(*parts, ((), ()), 4)
    assert both.positions("query").tolist() == [[2, 3, -1], [1, 2, 3]]


def test_each_word_that_a_run_found_has_its_own_tokens():
    first, last = (torch.arange(15)[None] == place for place in (5, 11))
    found = ONE.marked("vsink", first).marked("top(image,1,2)", last)
    assert torch.equal(found.mask("vsink"), first)
    assert torch.equal(found.mask("top(image,1,2)"), last)
    assert torch.equal(found.marked("vsink", last).mask("vsink"), last)
    with pytest.raises(vi.LayoutError, match=r"mark of shape \(1, 14\); the tokens are \(1, 15\)"):
        ONE.marked("vsink", first[:, 1:])


def test_the_token_that_ends_an_answer_is_not_read():
    assert ONE.read[0].tolist() == [False] * 2 + [True] * 12 + [False]
    assert ONE.first(14).read[0].tolist() == [False] * 2 + [True] * 12


def test_an_image_of_which_a_part_is_shown_is_printed_by_its_tokens():
    assert "image[3]" in str(layout("biiiq", " 111 "))
    assert "image[2x2=4]" in str(layout("biiiiq", " 1111 "))


def test_tokens_that_are_no_patches_are_of_no_view():
    tile = vi.View((2, 2), (0, 0, 4, 4), newline=True, tail=1, head=1)
    span = vi.ImageSpan.of((tile, vi.View((1, 2), (0, 0, 4, 4))), whole=1)
    assert span.places == (
        None, (0, 0, 0), (0, 0, 1), None, (0, 1, 0), (0, 1, 1), None, None, (1, 0, 0), (1, 0, 1),
    )  # fmt: skip
    assert span.tokens_of(0) == (1, 2, 4, 5)
    assert span.tokens_of() == span.tokens_of(1) == (8, 9)
    assert span.grid == (1, 2)
    assert str(span) == "2x2+1x2"
    assert str(vi.ImageSpan.of((tile, tile, vi.View((1, 2))))) == "2*2x2+1x2"


def test_a_patch_has_its_box():
    span = SPANS[1]
    assert span.size == 4
    assert [span.patch_box(i) for i in range(4)] == [
        (10, 20, 30, 30), (30, 20, 50, 30), (10, 30, 30, 40), (30, 30, 50, 40),
    ]  # fmt: skip


def test_a_box_holds_the_patches_that_it_covers_in_part():
    """Two views: four patches with ends of rows, and one patch."""
    whole = (0, 0, 4, 4)
    span = vi.ImageSpan.of((vi.View((2, 2), whole, newline=True), vi.View((1, 1), whole)), whole=1)
    for box, found in {
        (0, 0, 2, 2): (0, 6),
        (2, 0, 4, 2): (1, 6),
        (1, 1, 3, 3): (0, 1, 3, 4, 6),
        (2.5, 2.5, 9, 9): (4, 6),
        (-3, 0, 0, 4): (),
        (0, 4, 4, 9): (),
    }.items():
        assert span.tokens_in(box) == found, box
    assert span.tokens_at(2, 1) == (1, 6)
    with pytest.raises(vi.LayoutError, match=r"no box for token 2 .*not a patch"):
        span.patch_box(2)


@pytest.mark.parametrize(("span", "patch"), [(SPANS[1], 4), (SPANS[1], -1), (SPANS[0], 0)])
def test_no_box_where_there_is_no_patch_or_no_image(span, patch):
    with pytest.raises(vi.LayoutError, match="no box for patch"):
        span.patch_box(patch)


def test_a_view_that_is_not_there_is_refused():
    assert SPANS[1].tokens_of(0) == SPANS[1].tokens_of() == (0, 1, 2, 3)
    for view in (1, -1):
        with pytest.raises(vi.LayoutError, match="has views 0 to 0"):
            SPANS[1].tokens_of(view)
