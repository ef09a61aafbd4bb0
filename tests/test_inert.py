"""Law 7: a graph that could not act is refused, with what would; nothing is silently ignored."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig

import vsink_interp as vi
from tests import plain_process, tiny
from vsink_interp import probes
from vsink_interp.edits import AddScores, CopyHead, Redistribute, ScaleKeys, ScaleScores

INERT_IN_A_PASS = {
    "arrow the wrong way round": lambda: vi.Knockout("query -> image"),
    "rows before the image": lambda: vi.Knockout("image -> system"),
    "rows before the keys, scores": lambda: AddScores("query", 5.0, rows="image"),
    "rows before the keys, scaled": lambda: ScaleScores("query", 5.0, rows="system"),
    "rows before the keys, ablated": lambda: vi.HideKeys("query", target="system"),
    "generated keys": lambda: vi.Knockout("generated -> query generated"),
    "generated rows": lambda: vi.Knockout("image -> generated"),
    "generated tokens ablated": lambda: vi.HideKeys("generated"),
    "generated keys scaled": lambda: ScaleKeys("generated", 0.0),
    "generated scores": lambda: AddScores("generated", 5.0),
    "mass moved to what is not there": lambda: Redistribute("bos", "generated", 0.5),
    "mass moved to itself": lambda: Redistribute("image", "image", 0.5),
    "rows of a probe": lambda: probes.SegmentMass("generated"),
    "layers outside the layers": lambda: probes.Activation("hook_embed", "1:"),
    "layers of the logits": lambda: probes.Logits(layers="99:"),
    "layers of a hook function": lambda: vi.Fn("ln_final.hook_out", abs, layers=(3,)),
    "first token without generated": lambda: vi.Knockout("image -> query", first_token=True),
    "tau out of reach": lambda: vi.VAR(tau=1e9),
    "tau below all": lambda: vi.VAR(tau=-1.0),
    "tau no number": lambda: vi.VAR(tau=float("nan")),
    "a layer that VAR leaves alone": lambda: vi.VAR(layers=(1, tiny.LAYERS - 1)),
    "a head copied onto itself": lambda: CopyHead(0, heads=(0,)),
    "a head copied onto itself twice": lambda: CopyHead(0, heads=(0, 0)),
    "a pool without a control": lambda: vi.HideKeys("image", pool="query"),
    "dimensions, none": lambda: probes.SinkValue(dims=()),
    "dimensions beyond the model": lambda: probes.SinkValue(dims=(tiny.WIDTH,)),
}


@pytest.mark.parametrize("name", INERT_IN_A_PASS)
def test_what_could_not_act_in_a_forward_pass_is_refused(name):
    with pytest.raises((vi.NotationError, vi.LayoutError)):
        tiny.lmm().run(tiny.encode(), graph=INERT_IN_A_PASS[name]())


@pytest.mark.parametrize("flow", ["image -> generated", "generated -> generated"])
def test_one_new_token_has_no_generated_row(flow):
    with pytest.raises(vi.LayoutError, match="2 or more"):
        tiny.lmm().generate(tiny.encode(), graph=vi.Knockout(flow), max_new_tokens=1)


def test_the_row_that_predicts_the_only_token_can_be_cut():
    edit = vi.Knockout("image -> generated", first_token=True)
    run = tiny.lmm().generate(tiny.encode(), graph=edit, max_new_tokens=1)
    plain = tiny.lmm().generate(tiny.encode(), max_new_tokens=1)
    assert (run.logits - plain.logits).abs().max() > 1e-3


ON_DROPPED_KEYS = {
    "scores": vi.DropKeys("image") | AddScores("image", 3.0, rows="generated"),
    "before the drop": ScaleScores("image", 3.0, rows="generated") | vi.DropKeys("image"),
    "mass moved there": vi.DropKeys("image") | Redistribute("bos", "image", 0.9, rows="generated"),
    "mass taken there": vi.DropKeys("image") | Redistribute("image", "bos", 0.9, rows="generated"),
    "in layers all cut": vi.DropKeys("image", "1:")
    | AddScores("image", 3.0, rows="generated", layers=2),
    "by two drops": vi.DropKeys("image")
    | vi.DropKeys("bos")
    | AddScores("bos image", 3.0, rows="generated"),
    "sinks of what is dropped": vi.DropKeys("image")
    | ScaleScores("sink & image", 3.0, rows="generated"),
    "sinks where sinks are dropped": vi.DropKeys("sink & image")
    | AddScores("sink & image", 3.0, rows="generated"),
    "dropped and cut": vi.DropKeys("bos")
    | vi.Knockout("image -> generated")
    | AddScores("bos image", 3.0, rows="generated"),
}


ON_OTHERS_TOO = {
    "rows of the prompt": AddScores("image", 3.0),
    "a layer that keeps its keys": AddScores("image", 3.0, rows="generated", layers=":2"),
    "keys that stay": AddScores("system image", 3.0, rows="generated"),
    "generated keys": AddScores("image generated", 3.0, rows="generated"),
}


@pytest.mark.parametrize("name", ON_OTHERS_TOO)
def test_what_acts_beside_dropped_keys_runs_and_acts(name):
    lmm, drop = tiny.lmm(), vi.DropKeys("image", "1:")
    edited = lmm.generate(tiny.encode(), graph=drop | ON_OTHERS_TOO[name], max_new_tokens=6)
    alone = lmm.generate(tiny.encode(), graph=drop, max_new_tokens=6)
    assert (edited.logits - alone.logits).abs().max() > 1e-4


def test_what_is_said_about_a_server_is_refused_without_one(tmp_path):
    lmm, (image, prompt) = tiny.lmm(), tiny.PROMPTS["one image"]
    for ask in (
        lambda: lmm.run(image, prompt, allow_large=True),
        lambda: lmm.generate(image, prompt, allow_large=True),
        lambda: vi.run_dataset(lmm, [(image, prompt)], folder=tmp_path, allow_large=True),
    ):
        with pytest.raises(vi.InputError, match="allow_large concerns results of a server"):
            ask()


CUT = vi.Knockout("image -> generated")
ON_CUT_EDGES = {
    "scores": CUT | AddScores("image", 3.0, rows="generated"),
    "scores before the cut": AddScores("image", 3.0, rows="generated") | CUT,
    "sinks of what is cut": CUT | ScaleScores("sink & image", 3.0, rows="generated"),
    "mass moved there": CUT | Redistribute("bos", "image", 0.9, rows="generated"),
    "mass taken there": Redistribute("sink & image", "bos", 0.9, rows="generated") | CUT,
    "rows that two cuts share": CUT
    | vi.Knockout("image -> query")
    | AddScores("image", 3.0, rows="query generated"),
    "keys that two cuts share": CUT
    | vi.Knockout("bos -> generated")
    | AddScores("bos image", 3.0, rows="generated"),
    "layers that two cuts share": vi.Knockout("image -> generated", ":2")
    | vi.Knockout("image -> generated", "2:")
    | AddScores("image", 3.0, rows="generated"),
    "in the heads that are cut": vi.Knockout("image -> generated", heads=(0, 2))
    | AddScores("image", 3.0, rows="generated", heads=(2,)),
    "all attention to the image": vi.Knockout("image -> query generated") | vi.VAR(),
    "scaled keys": vi.Knockout("image[0] -> image query generated") | ScaleKeys("image[0]", 3.0),
    "keys that come after": vi.Knockout("query -> query")
    | AddScores("query", 3.0, rows="image query"),
}


INERT = {f"dropped: {name}": graph for name, graph in ON_DROPPED_KEYS.items()}
INERT |= {f"cut: {name}": graph for name, graph in ON_CUT_EDGES.items()}


@pytest.mark.parametrize("name", INERT)
def test_what_acts_on_dropped_keys_or_cut_edges_alone_is_refused_by_name(name):
    graph = INERT[name]
    with pytest.raises(vi.LayoutError, match="changes nothing") as refusal:
        tiny.lmm().generate(tiny.encode(), graph=graph, max_new_tokens=4)
    assert all(repr(node) in str(refusal.value) for node in graph)


BESIDE_A_CUT = {
    "other rows": CUT | AddScores("image", 3.0),
    "scaled keys that other rows see": CUT | ScaleKeys("image", 3.0),
    "other keys": CUT | AddScores("system image", 3.0, rows="generated"),
    "other layers": vi.Knockout("image -> generated", "1:")
    | AddScores("image", 3.0, rows="generated"),
    "other heads": vi.Knockout("image -> generated", heads=(0, 2))
    | AddScores("image", 3.0, rows="generated", heads=(1, 2)),
    "heads that no cut names": vi.Knockout("image -> generated", heads=(0, 2))
    | AddScores("image", 3.0, rows="generated"),
    "the row before the first token": CUT | AddScores("image", 3.0, rows="query"),
    "answers that no drop takes": vi.DropKeys("~image")
    | AddScores("generated", 3.0, rows="generated"),
    "sinks outside the cut": CUT | AddScores("sink", 3.0, rows="generated"),
    "queries of a cut of generated rows": CUT | vi.VAR(rho=0.2),
    "sinks that are cut": vi.Knockout("sink & image -> generated")
    | AddScores("image", 3.0, rows="generated"),
    "written over after the cut": CUT
    | vi.Fn("attn.hook_attn_scores", lambda scores, hook: scores.clamp_min(-5.0))  # noqa: ARG005 (TL's call)
    | AddScores("image", 3.0, rows="generated"),
}


@pytest.mark.parametrize("name", BESIDE_A_CUT)
def test_what_acts_beside_cut_edges_runs_and_acts(name):
    lmm, graph = tiny.lmm(), BESIDE_A_CUT[name]
    alone = vi.EditGraph(*graph.nodes[:-1])
    edited, plain = (
        lmm.generate(tiny.encode(), graph=one, max_new_tokens=6) for one in (graph, alone)
    )
    assert (edited.logits - plain.logits).abs().max() > 1e-4


def test_scores_that_a_probe_reads_before_they_are_cut_are_edited():
    lmm, seen = tiny.lmm(), vi.probes.Activation("attn.hook_attn_scores", layers=0)
    edit = AddScores("image", 3.0, rows="generated")
    with pytest.raises(vi.LayoutError, match="changes nothing"):
        lmm.generate(tiny.encode(), graph=seen | edit | CUT, max_new_tokens=3)
    edited, plain = (
        lmm.generate(tiny.encode(), graph=graph, max_new_tokens=3)[seen].values
        for graph in (edit | seen | CUT, seen | CUT)
    )
    assert (edited - plain).nan_to_num(0, 0, 0).abs().max() == pytest.approx(3.0)


BOOLEANS = {
    "heads of an edit": lambda: AddScores("image", 3.0, heads=(True,)),
    "heads of a knockout": lambda: vi.Knockout("image -> query", heads=(0, True)),
    "head copied": lambda: CopyHead(True),
    "a layer": lambda: vi.Knockout("image -> query", layers=True),
    "blocks": lambda: AddScores("image", 3.0, layers=(0, True)),
}


@pytest.mark.parametrize("name", BOOLEANS)
def test_a_boolean_is_no_number_of_a_head_or_layer(name):
    with pytest.raises(vi.NotationError, match="tuple"):
        BOOLEANS[name]()


@pytest.mark.parametrize(
    "option",
    [
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"output_scores": True},
        {"output_logits": False},
        {"return_dict_in_generate": False},
        {"max_length": 50},
    ],
    ids=str,
)
def test_what_a_run_cannot_bring_back_is_refused(option):
    with pytest.raises(vi.CapabilityError, match=next(iter(option))):
        tiny.lmm().generate(tiny.encode(), max_new_tokens=2, **option)


def test_a_generating_trace_refuses_what_generate_refuses():
    with pytest.raises(vi.CapabilityError, match="num_beams"):
        tiny.lmm().trace(tiny.encode(), max_new_tokens=2, num_beams=2)


@pytest.mark.parametrize(
    "option", [{"do_sample": True}, {"temperature": 0.5}, {"streamer": None}, {"seed": 1}], ids=str
)
def test_a_trace_of_one_pass_takes_nothing_of_generating(option):
    with pytest.raises(vi.InputError, match=f"{next(iter(option))}: for generating"):
        tiny.lmm().trace(tiny.encode(), **option)


@pytest.mark.parametrize(
    "option",
    [{"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 3}, {"min_p": 0.1}, {"typical_p": 0.5}],
    ids=str,
)
def test_what_shapes_samples_is_refused_where_none_are_drawn(option):
    lmm, given = tiny.lmm(), {"max_new_tokens": 2, **option}
    for more in ({}, {"do_sample": False}, {"generation_config": GenerationConfig(pad_token_id=0)}):
        with pytest.raises(vi.InputError, match=f"{next(iter(option))}=.*add do_sample=True"):
            lmm.generate(tiny.encode(), **given, **more)
    lmm.generate(tiny.encode(), **given, do_sample=True, seed=0)
    plain = lmm.generate(tiny.encode(), max_new_tokens=2)
    nothing = {"temperature": 0.0, "top_p": 1.0, "top_k": None}
    assert torch.equal(lmm.generate(tiny.encode(), max_new_tokens=2, **nothing).ids, plain.ids)


def make(group: str) -> vi.Probe:
    @vi.probe("attn.hook_pattern")
    def mass(pattern, site) -> Float[Tensor, "batch head query"]:
        return (pattern * site.keys(group)[:, None, None]).sum(-1)

    return mass


def test_two_probes_of_one_name_are_refused_not_mixed_up():
    with pytest.raises(vi.NotationError, match="different names"):
        tiny.lmm().run(tiny.encode(), graph=make("image") | make("bos"))


LISTS = """
import vsink_interp as vi
from vsink_interp.edits import ScaleScores, SetDims
given = SetDims([3, 17], 4.0) | vi.HideKeys([3]) | vi.probes.SegmentMass(groups=["image"])
given = given | ScaleScores("image", 2.0, heads=[0], layers=[1])
assert vi.EditGraph.from_json(given.to_json()) == given
assert hash(given) == hash(vi.EditGraph(*given))
try:
    vi.probes.SegmentMass(groups="image")
except vi.NotationError as error:
    assert "('image',)" in str(error)
else:
    raise AssertionError("a string was taken for a tuple of groups")
"""


def test_lists_become_tuples_so_that_nodes_stay_values():
    # In a process of its own: here the run-time checks refuse a list before we see it.
    done = plain_process.run(LISTS)
    assert done.returncode == 0, done.stderr


def test_positions_are_counted_without_padding():
    alone = tiny.lmm().run(tiny.encode("short"), graph=vi.HideKeys((3, 5)))
    together = tiny.lmm().run(tiny.batch("one image", "short"), graph=vi.HideKeys((3, 5)))
    torch.testing.assert_close(together.logits[1, -1], alone.logits[0, -1], atol=1e-5, rtol=0)
