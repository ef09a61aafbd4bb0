"""Hook points, layers and heads in every form in which people write them."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp.graph.address import matching
from vsink_interp.graph.index_notation import resolve, settled
from vsink_interp.probes import Activation

FORMS = {
    "range": range(1, 3),
    "list": [1, 2],
    "tuple": (1, 2),
    "numpy array": np.array([1, 2]),
    "numpy numbers": (np.int64(1), np.uint8(2)),
    "tensor": torch.tensor([1, 2]),
}
ONE = {"int": 2, "numpy number": np.int32(2), "tensor": torch.tensor(2)}


def with_field(name: str) -> dict[str, vi.Edit | vi.Probe]:
    """A node of every class that has this field, where it may take any value."""
    every = {**nodes.EDITS, **nodes.DROPS, **nodes.EVERY_PROBE}
    found = {type(n).__name__: n for n in every.values() if name in {f.name for f in fields(n)}}
    outside = {"hook_embed", "ln_final.hook_out", "unembed.hook_out"}
    return {k: n for k, n in found.items() if n.hook not in outside and "vision" not in n.hook}


@pytest.mark.parametrize("name", with_field("layers"))
def test_every_node_takes_layers_in_every_form(name):
    node = with_field("layers")[name]
    for form, layers in FORMS.items():
        made = replace(node, layers=layers)
        assert made.layers == (1, 2), form
        assert made.resolved_layers(4) == (1, 2)
        assert hash(made) == hash(replace(node, layers=(1, 2)))
    for form, layer in ONE.items():
        assert replace(node, layers=layer).layers == 2, form
    for wrong in (True, [True], "1-3"):
        with pytest.raises(vi.NotationError, match="not a layer range"):
            replace(node, layers=wrong)


@pytest.mark.parametrize("name", with_field("heads"))
def test_every_node_takes_heads_in_every_form(name):
    node = with_field("heads")[name]
    if name == "Patch":
        node = replace(node, hook="attn.hook_z", source=nodes.OTHER)
    for form, heads in FORMS.items():
        assert replace(node, heads=heads).heads == (1, 2), form
    for form, head in ONE.items():
        if name != "CopyHead":
            assert replace(node, heads=head).heads == (2,), form
    assert replace(node, heads=":").heads is None
    sizes = tiny.lmm().sizes
    if name != "CopyHead":
        assert replace(node, heads="2:").sized(sizes).heads == (2, 3)
    assert replace(node, heads="except 2").sized(sizes).heads == (0, 1, 3)
    for wrong in (True, "1-3", ()):
        with pytest.raises(vi.NotationError):
            replace(node, heads=wrong)
    with pytest.raises(vi.NotationError, match=r"no head 9; a layer has 4"):
        replace(node, heads="9").sized(sizes)


def test_heads_in_notation_act_as_their_numbers():
    encoding, lmm = tiny.encode(), tiny.lmm()
    words = lmm.run(encoding, graph=vi.Knockout("image -> query", heads="2:")).logits
    numbers = lmm.run(encoding, graph=vi.Knockout("image -> query", heads=(2, 3))).logits
    assert torch.equal(words, numbers)
    assert nodes.apart(words, tiny.plain(lmm, encoding)) > 1e-3


@pytest.mark.parametrize(
    ("name", "hook", "layers"),
    [
        ("blocks.3.attn.hook_pattern", "attn.hook_pattern", 3),
        ("blocks.{2-5}.hook_resid_post", "hook_resid_post", (2, 3, 4, 5)),
        ("blocks.{0,3}.attn.hook_z", "attn.hook_z", "0,3"),
        ("blocks.*.hook_mlp_out", "hook_mlp_out", ":"),
        ("blocks.2:.attn.hook_q", "attn.hook_q", "2:"),
        ("blocks.-1.hook_resid_post", "hook_resid_post", -1),
        ("blocks.{layer}.hook_resid_pre", "hook_resid_pre", ":"),
        (
            "vision_encoder.blocks.1.hook_mlp_out",
            "vision_encoder.blocks.{layer}.hook_mlp_out",
            1,
        ),
        ("unembed.hook_out", "unembed.hook_out", ":"),
    ],
)
def test_a_full_name_is_hook_and_layers(name, hook, layers):
    assert Activation(name) == Activation(hook, layers)
    assert vi.Fn(name, nodes.grow) == vi.Fn(hook, nodes.grow, layers=layers)
    assert eval(repr(Activation(name)), vars(vi.probes)) == Activation(name)


def test_other_nodes_take_full_names_too():
    patch = vi.Patch("blocks.2.attn.hook_z", nodes.OTHER)
    assert patch == vi.Patch("attn.hook_z", nodes.OTHER, 2)
    along = {"direction": nodes.DIRECTION}
    full = vi.probes.Projection(hook="blocks.1.hook_mlp_out", **along)
    assert full == vi.probes.Projection(hook="hook_mlp_out", layers=1, **along)
    decorated = vi.probe("blocks.{1-2}.attn.hook_pattern")(nodes.sharpest.fn)
    assert (decorated.hook, decorated.layers) == ("attn.hook_pattern", (1, 2))
    assert tiny.lmm().layers_with("blocks.{1-2}.attn.hook_pattern") == (1, 2)


def test_names_that_say_too_much_or_nothing_are_refused():
    with pytest.raises(vi.NotationError, match="names its layers, and layers=2 names others"):
        Activation("blocks.3.attn.hook_z", 2)
    with pytest.raises(vi.NotationError, match="names several hook points"):
        Activation("blocks.3.attn.hook_*")
    with pytest.raises(vi.NotationError, match="choose from: hook_embed"):
        Activation("blocks.3.attn.hook_zz")
    with pytest.raises(vi.NotationError, match="no layer 4; this model has 4"):
        tiny.lmm().run(tiny.encode(), graph=Activation("blocks.4.attn.hook_z"))


NAMES = [f"blocks.{i}.{n}" for i in range(12) for n in ("attn.hook_z", "attn.hook_q")]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("blocks.1.attn.hook_z", NAMES[2:3]),
        ("blocks.*.attn.hook_z", NAMES[::2]),
        ("blocks.1.attn.*", NAMES[2:4]),
        ("blocks.{9-11}.attn.hook_q", NAMES[19::2]),
        ("blocks.{0,11}.attn.hook_*", NAMES[:2] + NAMES[22:]),
        ("*.hook_q", NAMES[1::2]),
        ("blocks.{layer}.attn.hook_q", NAMES[1::2]),
        ("*hook_k", []),
    ],
)
def test_patterns_by_hand(pattern, wanted):
    assert matching(pattern, NAMES) == wanted


@pytest.mark.parametrize("wrong", [1.5, None, [1.0], np.array([0.5]), np.True_, torch.tensor(True)])
def test_what_is_no_whole_number_is_refused(wrong):
    with pytest.raises(vi.NotationError, match="not a layer range"):
        settled(wrong)


def test_positions_and_heads_say_what_they_count():
    with pytest.raises(vi.NotationError, match="no head 4; a layer has 4, 0 to 3"):
        resolve(4, 4, "head", "a layer")
    assert resolve("-2:", 7, "position", "the prompt") == [5, 6]


def test_a_graph_is_indexed_and_a_node_is_json():
    cut, mass = vi.Knockout("image -> query"), vi.probes.SegmentMass()
    graph = cut | mass | vi.VAR()
    assert graph[0] == cut
    assert graph[-2] == mass
    assert graph[:2] == cut | mass
    assert list(graph) == [cut, mass, vi.VAR()]
    assert vi.EditGraph.from_json(cut.to_json()) == vi.EditGraph(cut)
    with pytest.raises(vi.CapabilityError, match="JSON cannot carry"):
        vi.Fn("hook_embed", nodes.grow).to_json()


def test_directions_are_vectors_of_any_kind():
    numbers = (0.5, -1.0, 2.0)
    for vector in (list(numbers), np.array(numbers), torch.tensor(numbers).bfloat16()):
        assert vi.Steer(vector, layers=1) == vi.Steer(numbers, layers=1)
    with pytest.raises(vi.NotationError, match="one axis"):
        vi.Steer(torch.ones(2, 3))
