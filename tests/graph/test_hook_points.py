"""Names, axes, forward order, and the notation for layers."""

import pytest
from hypothesis import given, settings, strategies as st

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp.graph.hook_points import (
    CACHE,
    HOOKS,
    ORDER,
    find_hook,
    forward_order,
    parse_hook,
)
from vsink_interp.graph.index_notation import resolve_layers

AXES = set("batch head kv_head query key d_model d_head d_mlp vocab image patch d_vision".split())


def test_names_are_unique_and_axes_are_known():
    assert len({point.template for point in HOOKS}) == len(HOOKS)
    assert set(ORDER) == {point.template for point in (*HOOKS, CACHE)}
    assert all(set(point.axes) <= AXES and point.doc for point in HOOKS)


@pytest.mark.parametrize("point", HOOKS, ids=lambda p: p.template)
def test_every_name_is_found_and_parsed(point):
    assert find_hook(point.template) is point
    layer = None if point.stack is None else 3
    assert parse_hook(point.at(layer)) == (point, layer)


def test_a_short_name_is_the_decoders():
    assert find_hook("hook_resid_pre").template == "blocks.{layer}.hook_resid_pre"


def test_forward_order_walks_layer_by_layer():
    places = [("blocks.{layer}.hook_resid_pre", 1), ("unembed.hook_out", None)]
    places += [("blocks.{layer}.hook_resid_post", 0), ("hook_embed", None)]
    places += [("blocks.{layer}.attn.hook_pattern", 0)]
    ordered = sorted(places, key=lambda place: forward_order(*place))
    assert [places.index(place) for place in ordered] == [3, 4, 2, 0, 1]


@pytest.mark.parametrize("name", ["attn.hook_patern", "blocks.1.hook_out", "blocks.x.hook_mlp_out"])
def test_an_unknown_name_lists_the_legal_ones(name):
    with pytest.raises(vi.NotationError, match=r"choose from: hook_embed, .*attn\.hook_pattern"):
        parse_hook(name)
    with pytest.raises(vi.NotationError, match=r"did you mean 'attn\.hook_pattern'"):
        find_hook("attn.hook_patern")


def test_a_name_without_its_block_is_refused():
    with pytest.raises(vi.NotationError, match=r"needs its layer, as in 'blocks\.0\.hook_mlp_out'"):
        parse_hook("hook_mlp_out")


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        (":", range(8)),
        ("3:", range(3, 8)),
        (":3", range(3)),
        ("2:5", (2, 3, 4)),
        ("-2:", (6, 7)),
        (":-2", range(6)),
        ("-1", (7,)),
        ("0,3,7", (0, 3, 7)),
        ("7, 0", (0, 7)),
        ("0:2,-1", (0, 1, 7)),
        ("except 2:7", (0, 1, 7)),
        ("except 0", range(1, 8)),
        (5, (5,)),
        (-1, (7,)),
        ((3, 1, -1), (1, 3, 7)),
    ],
)
def test_layers_by_hand(layers, found):
    assert resolve_layers(layers, 8) == tuple(found)


ends = st.none() | st.integers(-9, 9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(first=ends, last=ends, n_layers=st.integers(1, 8))
def test_a_range_is_a_slice_or_is_refused(first, last, n_layers):
    text = f"{'' if first is None else first}:{'' if last is None else last}"
    inside = (first is None or -n_layers <= first < n_layers) and (
        last is None or -n_layers <= last <= n_layers
    )
    want = tuple(range(n_layers))[first:last] if inside else ()
    if want:
        assert resolve_layers(text, n_layers) == want
    else:
        with pytest.raises(vi.NotationError):
            resolve_layers(text, n_layers)


@pytest.mark.parametrize(
    "layers",
    ["", " ", "1-3", "1 3", "a", "1:2:3", "except", "except ", ",", "1,", "--1", "1.5", ()],
)
def test_what_is_no_range_is_refused(layers):
    with pytest.raises(vi.NotationError):
        resolve_layers(layers, 8)


@pytest.mark.parametrize(
    "layers", ["5:3,0", "0,5:3", "3:3", "0,3:3,5", "except 5:3", ":0,7", "-1:-2"]
)
def test_a_range_without_a_layer_is_refused_beside_others(layers):
    with pytest.raises(vi.NotationError, match=r"names no layer; this model has 8, 0 to 7"):
        resolve_layers(layers, 8)


@pytest.mark.parametrize("layers", ["8", "-9", "8:", ":9", 8, (0, 8), "0,8"])
def test_a_block_beyond_the_model_is_refused_with_its_number(layers):
    with pytest.raises(vi.NotationError, match=r"this model.* 8"):
        resolve_layers(layers, 8)


def test_the_tiny_llava_offers_every_hook_point_but_norms_that_it_lacks():
    assert tiny.lmm().hooks == tuple(p.template for p in HOOKS if p.name not in nodes.NORMED)
    for name in nodes.NORMED:
        with pytest.raises(vi.CapabilityError, match=f"does not offer .*{name}"):
            tiny.lmm().run(tiny.encode(), graph=vi.probes.Activation(name))
