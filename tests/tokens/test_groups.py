"""The notation of groups and flows."""

import pickle

import pytest
import torch
from hypothesis import given, settings, strategies as st

import vsink_interp as vi
from tests import tiny
from vsink_interp.tokens.groups import (
    NUMBERED,
    WORDS,
    Group,
    Term,
    Top,
    parse_flow,
    parse_group,
    parse_top,
)

TERMS = [Term(word, None, negated) for word in WORDS for negated in (False, True)]
TERMS += [
    Term(word, number, negated)
    for word in NUMBERED
    for number in (0, 1, 12)
    for negated in (False, True)
]
some = st.lists(st.sampled_from(TERMS), min_size=1, max_size=3).map(tuple)
unions = st.lists(some, min_size=1, max_size=3).map(tuple)
"""What a `Group` is made of."""


@settings(max_examples=100, deadline=None, derandomize=True)
@given(unions, unions)
def test_what_is_written_is_read(source, target):
    source, target = Group(source), Group(target)
    assert parse_group(str(source)) == source
    flow = parse_flow(f" {source}->{target} ")
    assert (flow.source, flow.target) == (source, target)
    assert parse_flow(str(flow)) == flow
    assert flow.words == source.words | target.words


def test_spaces_around_an_ampersand_do_not_matter():
    assert parse_group("sink&image query") == parse_group(" sink  &   image  query ")


@pytest.mark.parametrize(
    ("short", "written"),
    [
        ("lsink", "sink & image"),
        ("lsink & first query", "first & sink & image query"),
        ("~lsink", "~sink ~image"),
        ("~lsink & image", "image & ~sink"),
        ("~lsink & image & sink", "image & sink & ~sink image & sink & ~image"),
    ],
)
def test_sinks_of_the_language_model_are_written_out(short, written):
    sets = [{frozenset(terms) for terms in parse_group(text).unions} for text in (short, written)]
    assert sets[0] == sets[1]


@pytest.mark.parametrize("text", ["img", "image generatd", "Image", "sink & imge", "~qery"])
def test_a_misspelt_segment_lists_the_legal_ones(text):
    with pytest.raises(vi.NotationError, match="choose from: bos, system, image, query, generated"):
        parse_group(text)


def test_a_misspelt_segment_is_guessed():
    with pytest.raises(vi.NotationError, match="did you mean 'generated'"):
        parse_group("generatd")


@pytest.mark.parametrize(
    "text", ["", " ", "&", "image &", "& image", "image && sink", "image[]", "image[x]",
             "image,query", "image[-1]", "~ image", "~~image", "query[0]", "image -> query",
             "frame", "query ~turn"]
)  # fmt: skip
def test_what_is_no_group_is_refused(text):
    with pytest.raises(vi.NotationError):
        parse_group(text)


@pytest.mark.parametrize(
    "text", ["image query", "image -> query -> bos", "-> query", "image ->", ""]
)
def test_what_is_no_flow_is_refused(text):
    with pytest.raises(vi.NotationError):
        parse_flow(text)


def test_a_pickled_group_leaves_its_hash_behind():
    group = parse_group("sink & image")
    hash(group)
    back = pickle.loads(pickle.dumps(group))
    assert back == group
    assert "_hash" not in vars(back), "texts hash otherwise in every process"


SHOWN = [term for term in TERMS if term.number in (None, 0)]
"""Terms that a prompt with one image has."""


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.sampled_from(SHOWN), min_size=1, max_size=3).map(tuple), min_size=1,
                max_size=2).map(tuple))  # fmt: skip
def test_which_generated_tokens_belong_is_what_the_layout_says(terms):
    group, layout = Group(terms), tiny.encode().layout.extend(1)
    held = {
        sink: bool(layout.mask(group, sink=torch.full_like(layout.roles, sink))[0, -1])
        for sink in (True, False)
    }
    assert {sink: group.takes_generated(sink=sink) for sink in held} == held
    assert group.grows == any(held.values())
    assert group.grows_by_sinks == (held[True] != held[False])


@pytest.mark.parametrize(
    ("text", "grows", "by_sinks"),
    [
        ("generated", True, False),
        ("sink & generated", True, True),
        ("generated & ~sink", True, True),
        ("sink & generated generated", True, False),
        ("all", True, False),
        ("~all", False, False),
        ("~generated", False, False),
        ("sink & ~generated", False, False),
        ("sink", True, True),
        ("~sink", True, True),
        ("sink ~sink", True, False),
        ("~image", True, False),
        ("sink & image", False, False),
        ("prompt", False, False),
        ("image[0] query", False, False),
    ],
)
def test_groups_that_an_answer_adds_to(text, grows, by_sinks):
    group = parse_group(text)
    assert (group.grows, group.grows_by_sinks) == (grows, by_sinks)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("top(image, 20, 2)", Top("image", 20, share=False, layer=2)),
        ("top(image,200,0)", Top("image", 200, share=False, layer=0)),
        ("top(query,100%,12)", Top("query", 100, share=True, layer=12)),
        ("top(image[1],1%,3)", Top("image[1]", 1, share=True, layer=3)),
    ],
)
def test_tokens_with_the_most_attention(text, found):
    assert parse_top(text) == found


@pytest.mark.parametrize(
    "text",
    ["top(image,0,2)", "top(image,0%,2)", "top(image,101%,2)", "top(vsink,2,1)", "top(sink,2,1)",
     "~top(image,2,1)", "top(image,2)", "top"],
)  # fmt: skip
def test_no_tokens_more_than_all_or_of_what_a_run_finds_are_refused(text):
    with pytest.raises(vi.NotationError):
        parse_top(text)


def test_words_that_a_run_has_to_find_before():
    assert parse_group("vsink & image query").measured == {"vsink"}
    assert parse_group("top(image, 2, 1) bos").measured == {"top(image,2,1)"}
    assert not parse_group("image query sink").measured
