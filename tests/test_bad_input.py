"""Mistakes that users make: each is an error that says what to write instead."""

import pytest

import vsink_interp as vi
from tests import nodes, tiny


@pytest.fixture
def foreign_graph(tmp_path):
    """A graph written for a larger model."""
    path = tmp_path / "graph.json"
    (vi.Knockout("image -> query generated", "16:") | vi.probes.SegmentMass()).save(path)
    return vi.EditGraph.load(path)


def test_a_graph_for_another_model_names_the_layers(foreign_graph):
    with pytest.raises(vi.NotationError, match=r"'16:'.*no layer 16; this model has 4, 0 to 3"):
        tiny.lmm().run(tiny.encode(), graph=foreign_graph)


def test_sinks_of_another_model_are_refused():
    with pytest.raises(vi.NotationError, match="beyond d_model = 64"):
        tiny.fresh().sinks = vi.SinkDims((1415, 2533), 20.0)


@pytest.mark.parametrize("asks", ["run", "generate"])
@pytest.mark.parametrize(
    ("graph", "error", "why"),
    [
        (vi.Knockout("system -> query", (0, 9)), vi.NotationError, "no layer 9"),
        (vi.Knockout("image[1] -> query"), vi.LayoutError, r"it is: bos\[1\] system\[2\] image"),
        (vi.Knockout("bos -> bos"), vi.LayoutError, "nothing to attend to"),
        (vi.Knockout("prompt -> query"), vi.LayoutError, "take a segment out"),
        (
            vi.Knockout("image -> query") | vi.Knockout("~image -> query"),
            vi.LayoutError,
            "together leave rows of layers",
        ),
        (
            vi.HideKeys("bos system image") | vi.Knockout("query generated -> query generated"),
            vi.LayoutError,
            "together leave rows of layers",
        ),
        (
            nodes.FNS["hook_embed"] | vi.Knockout("image -> query", 4),
            vi.NotationError,
            "no layer 4",
        ),
    ],
)
def test_nothing_impossible_runs(graph, error, why, asks):
    lmm = tiny.lmm()
    with pytest.raises(error, match=why):
        if asks == "run":
            lmm.run(tiny.encode(), graph=graph)
        else:
            lmm.generate(tiny.encode(), graph=graph, max_new_tokens=2)


def test_a_generated_token_may_not_go_blind():
    with pytest.raises(vi.LayoutError, match=r"nothing to attend to at positions \[22\]"):
        tiny.lmm().generate(tiny.encode(), graph=vi.Knockout("all -> generated"), max_new_tokens=2)
    fine = vi.Knockout("prompt -> generated")
    run = tiny.lmm().generate(tiny.encode(), graph=fine, max_new_tokens=3)
    assert not run.logits.isnan().any()


def test_errors_have_the_types_that_python_users_expect():
    assert issubclass(vi.NotationError, ValueError)
    assert issubclass(vi.LayoutError, ValueError)
    assert issubclass(vi.InputError, ValueError)
    assert issubclass(vi.CapabilityError, RuntimeError)
    assert issubclass(vi.ResultError, LookupError)
    for error in (
        vi.NotationError,
        vi.LayoutError,
        vi.InputError,
        vi.CapabilityError,
        vi.ResultError,
    ):
        assert issubclass(error, vi.VsinkError)


def test_a_misspelt_option_of_generate_is_not_swallowed():
    with pytest.raises(ValueError, match="tempratur"):
        tiny.lmm().generate(tiny.encode(), max_new_tokens=2, tempratur=0.5)
