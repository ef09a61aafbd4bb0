"""Graphs are values; the plan puts them into forward order."""

import copy
import io
import json
import pickle

import pytest
import torch
from jaxtyping import Float

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp.graph.graph import as_graph
from vsink_interp.graph.plan import plan
from vsink_interp.probes import Pattern, SegmentMass

KO, VAR, MASS = vi.Knockout("image -> query"), vi.VAR(), SegmentMass()


def test_a_graph_cannot_be_changed():
    graph = KO | VAR
    with pytest.raises(AttributeError, match="join graphs with"):
        graph.nodes = ()
    with pytest.raises((AttributeError, TypeError)):
        KO.flow = "bos -> query"  # ty: ignore[invalid-assignment]


def _through_torch(value):
    held = io.BytesIO()
    torch.save(value, held)
    held.seek(0)
    return torch.load(held, weights_only=False)


COPIES = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "torch.save": _through_torch,
}


@pytest.mark.parametrize("how", COPIES)
def test_every_node_and_graph_can_be_copied_and_pickled(how):
    every = [*nodes.EDITS.values(), *nodes.DROPS.values(), *nodes.EVERY_PROBE.values()]
    for node in every:
        assert repr(COPIES[how](node)) == repr(node)
    assert COPIES[how](vi.EditGraph(*every[:9], nodes.sharpest)) == vi.EditGraph(
        *every[:9], nodes.sharpest
    )
    assert COPIES[how](vi.EditGraph()) == vi.EditGraph()


def test_a_function_probe_without_a_name_of_its_own_is_copied():
    @vi.probe("hook_resid_pre", layers="1:")
    def local(resid, site) -> Float[torch.Tensor, "batch query"]:
        del site
        return resid.sum(-1)

    assert copy.deepcopy(vi.EditGraph(local)) == vi.EditGraph(local)


def test_different_graphs_differ():
    assert KO | VAR != VAR | KO
    assert KO | MASS != KO
    assert len({KO | VAR, VAR | KO, KO | VAR, vi.EditGraph(KO, VAR)}) == 2
    assert (KO | VAR) != "KO | VAR"


def test_what_is_no_node_is_refused_with_what_to_write():
    with pytest.raises(vi.NotationError, match=r"got function\. Wrap a hook function as Fn"):
        vi.EditGraph(nodes.grow)
    with pytest.raises(vi.NotationError, match="got str"):
        vi.EditGraph("image -> query")


def test_what_stands_for_a_graph():
    assert as_graph(None) == vi.EditGraph()
    assert as_graph(KO) == vi.EditGraph(KO)
    assert as_graph([KO, VAR]) == as_graph(KO | VAR) == KO | VAR
    assert len(KO | VAR) == len(list(KO | VAR)) == 2


def test_it_prints_one_line_per_node_and_draws_itself():
    graph = vi.Fn("hook_embed", nodes.grow) | KO | MASS
    lines = str(graph).splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:2] == ["edit", "attn.hook_attn_scores"]
    assert lines[2].split()[0] == "probe"
    assert str(vi.EditGraph()) == "empty edit graph"
    html = (KO | MASS)._repr_html_()
    assert html.count("<tr>") == 3
    assert "image -&gt; query" in html
    drawn = (MASS | KO).mermaid()
    assert drawn.startswith("flowchart LR")
    assert drawn.index("Knockout") < drawn.index("SegmentMass"), "in forward order"
    assert drawn.count("-->") == 3


def test_it_is_saved_and_loaded(tmp_path):
    graph = vi.EditGraph(*nodes.VALUES.values(), *nodes.PORTABLE_PROBES.values())
    graph.save(tmp_path / "graph.json")
    assert vi.EditGraph.load(tmp_path / "graph.json") == graph


def test_bare_functions_cannot_be_saved():
    for node in (vi.Fn("hook_embed", nodes.grow), nodes.sharpest):
        with pytest.raises(vi.CapabilityError, match="holds a bare function"):
            vi.EditGraph(node).to_json()


GOOD = json.loads(vi.EditGraph(KO).to_json())


def saved(**changes):
    return json.dumps({"format": 1, "nodes": [{**GOOD["nodes"][0], **changes}]})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an edit graph"),
        ("[]", "not an edit graph"),
        ("{}", "not an edit graph"),
        ('{"format": 2, "nodes": []}', "not an edit graph"),
        ('{"format": 1, "nodes": 3}', "not an edit graph"),
        ('{"format": 1, "nodes": [3]}', "not an edit graph"),
        ('{"format": 1, "nodes": [{}]}', "not installed|not an edit"),
        (saved(node="vsink_interp.edits.knockout:Knockin"), "not installed"),
        (saved(node="vsink_nowhere:Knockout"), "not installed"),
        (saved(node="vsink_interp.model.lmm:LMM"), "not an edit or a probe"),
        (saved(node="vsink_interp.graph.graph:Edit"), "not an edit or a probe|abstract"),
        (saved(node="pathlib:Path"), "not an edit or a probe"),
        (saved(fields={"flow": "image -> query", "depth": 3}), "no field.*depth"),
        (saved(fields={}), "flow"),
        (saved(fields={"flow": "img -> query"}), "did you mean|choose from"),
    ],
)  # fmt: skip
def test_what_is_no_saved_graph_is_refused(text, why):
    with pytest.raises(vi.NotationError, match=why):
        vi.EditGraph.from_json(text)


HOOKS = tiny.lmm().hooks


def test_the_plan_is_in_forward_order_and_keeps_the_order_at_one_place():
    first, second = (
        vi.Fn("hook_resid_mid", nodes.grow),
        vi.Fn("hook_resid_mid", nodes.grow_in_place),
    )
    graph = Pattern() | first | vi.Fn("hook_embed", nodes.grow) | second | KO
    planned = plan(graph, 2, 2, HOOKS)
    assert [(name.split(".")[-1], layer) for name, layer in planned.places] == [
        ("hook_embed", None),
        ("hook_attn_scores", 0), ("hook_pattern", 0), ("hook_resid_mid", 0),
        ("hook_attn_scores", 1), ("hook_pattern", 1), ("hook_resid_mid", 1),
    ]  # fmt: skip
    assert planned.at("blocks.{layer}.hook_resid_mid", 1) == ((1, first), (3, second))
    assert planned.at("blocks.{layer}.hook_mlp_out", 1) == ()


def test_sink_values_are_asked_for_only_where_they_are_needed():
    graph = vi.VAR(layers="1:3") | MASS | vi.Knockout("sink -> query", 5)
    assert plan(graph, 8, 2, HOOKS).phi_layers == (1, 2, 5)
    assert plan(vi.EditGraph(KO), 8, 2, HOOKS).phi_layers == ()


def test_what_the_model_does_not_offer_is_refused_with_what_it_does():
    with pytest.raises(vi.CapabilityError, match=r"does not offer; it offers: .*hook_embed"):
        plan(vi.EditGraph(KO), 4, 2, [h for h in HOOKS if "scores" not in h])


def test_blocks_of_the_tower_are_counted_apart():
    node = vi.Fn("vision_encoder.blocks.{layer}.hook_mlp_out", nodes.grow, layers="1:")
    assert [layer for _, layer in plan(vi.EditGraph(node), 8, 3, HOOKS).places] == [1, 2]
    with pytest.raises(vi.NotationError, match="no layer 3"):
        plan(vi.EditGraph(vi.Fn(node.hook, nodes.grow, layers=3)), 8, 3, HOOKS)
