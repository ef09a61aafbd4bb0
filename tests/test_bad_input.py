"""Mistakes that users make: each is an error that says what to write instead."""

import copy
import traceback

import pytest
import torch
from jaxtyping import Float
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import vsink_interp as vi
from tests import nodes, plain_process, restated, tiny
from tests.nodes import apart


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


def test_several_images_beside_one_prompt_ask_which_is_meant():
    images = [tiny.image(n) for n in range(3)]
    for ask in (tiny.lmm().run, tiny.lmm().generate):
        with pytest.raises(
            vi.InputError, match=r"\['count'\] \* 3.*<image> <image> <image> count'"
        ):
            ask(images, "count")
    lmm = tiny.lmm()
    assert lmm.run(images, "<image> <image> <image> count").layout.batch == 1
    assert lmm.run(images, ["count"] * 3).layout.batch == 3
    assert lmm.run([images], ["count"]).layout.batch == 1
    assert lmm.run(images[:1], "count").layout.batch == 1
    assert lmm.encode(images, "count").layout.batch == 1, "shown before it runs"


@vi.probe("attn.hook_pattern")
def few_rows(pattern, site) -> Float[torch.Tensor, "batch head query"]:
    del site
    return pattern.sum(-1)[..., :3]


@vi.probe("hook_resid_pre")
def few_axes(resid, site) -> Float[torch.Tensor, "batch query"]:
    del site
    return resid


@pytest.mark.parametrize(
    ("probe", "why"),
    [
        (few_rows, r"'batch head query' and returned shape \(1, 4, 3\), with query = 3, not 22"),
        (few_axes, r"'batch query' and returned shape \(1, 22, 64\)"),
    ],
)
def test_a_probe_that_measures_other_axes_than_it_says_is_refused(probe, why):
    with pytest.raises(vi.CapabilityError, match=f"probe {probe!r} declares the axes {why}.* at b"):
        tiny.lmm().run(tiny.encode(), graph=probe)


def test_an_error_inside_a_function_says_whose_it_is_and_where():
    def wrong(value, site) -> Float[torch.Tensor, "batch head query"]:
        return value[site.nothing]

    for hook, node in (
        ("attn.hook_pattern", vi.probe("attn.hook_pattern", layers=2)(wrong)),
        ("hook_resid_post", vi.probe("hook_resid_post", layers=2)(wrong)),
        ("attn.hook_z", vi.Fn("attn.hook_z", lambda value, _: value / "two", layers=2)),
    ):
        with pytest.raises((AttributeError, TypeError)) as found:
            tiny.lmm().run(tiny.encode(), graph=node)
        told = "".join(traceback.format_exception(found.value))
        assert f"raised by {node!r} at blocks.2.{hook}" in told


@pytest.mark.parametrize(
    "wrong",
    [
        lambda value, _: torch.ones_like(value, dtype=torch.int64),
        lambda value, _: value > 0.1,
        lambda value, _: value.to("meta"),
    ],
)
@pytest.mark.parametrize("hook", ["attn.hook_pattern", "hook_resid_pre"])
def test_what_could_not_stand_in_place_of_a_value_is_refused(hook, wrong):
    with pytest.raises(vi.CapabilityError, match=r"turned blocks.0.*; an edit keeps"):
        tiny.lmm().run(tiny.encode(), graph=vi.Fn(hook, wrong, layers=0))


def test_a_graph_is_called_graph():
    lmm = tiny.lmm()
    with pytest.raises(vi.InputError, match=r"edits=: edits and probes are given as graph="):
        lmm.generate(tiny.encode(), edits=[vi.VAR()])


def test_what_is_no_model_or_no_processor_is_refused():
    with pytest.raises(vi.InputError, match=r"LMM\.from_pretrained\('llava-hf/llava'\)"):
        vi.LMM("llava-hf/llava")
    for processor in (tiny.tokenizer(), None, tiny.processor().image_processor):
        with pytest.raises(vi.InputError, match="takes the processor of the model"):
            vi.LMM(tiny.hf_model(), processor)


def test_an_encoding_of_another_model_is_refused():
    other = vi.LMM.tiny("Qwen2-VL")
    with pytest.raises(vi.InputError, match=r"made for another model \(Qwen2-VL.*here: LLaVA"):
        tiny.lmm().run(other.encode(tiny.image(), "count"))
    twin = tiny.fresh(seed=3)
    assert twin.run(tiny.encode()).ids.shape == (1, 22)


@pytest.mark.parametrize(
    ("dims", "tau"), [((1,), float("nan")), ((1,), float("inf")), ((True,), 2.0), ((-1,), 2.0)]
)
def test_sink_dimensions_that_would_find_nothing_are_refused(dims, tau):
    with pytest.raises(vi.NotationError, match="whole number from 0 on, with a finite tau"):
        vi.SinkDims(dims, tau)


def test_a_model_that_was_changed_after_opening_is_refused():
    lmm = tiny.fresh(attention_dropout=0.1)
    assert not lmm.hf_model.training
    lmm.hf_model.train()
    with pytest.raises(vi.CapabilityError, match=r"training mode.*eval\(\)"):
        lmm.run(tiny.encode())
    lmm.hf_model.eval()
    lmm.run(tiny.encode())
    steady = tiny.fresh()
    steady.hf_model.gradient_checkpointing_enable()
    assert torch.equal(steady.run(tiny.encode()).logits, tiny.plain(steady, tiny.encode()))
    steady.hf_model.train()
    with pytest.raises(vi.CapabilityError, match=r"checkpoints its gradients.*eval\(\)"):
        steady.generate(tiny.encode(), max_new_tokens=2)
    own = lmm.processor.tokenizer
    lmm.processor.tokenizer = copy.deepcopy(own)
    lmm.processor.tokenizer.add_tokens(["another"])
    with pytest.raises(vi.CapabilityError, match="processor was exchanged"):
        lmm.run(tiny.encode())
    lmm.processor.tokenizer = own
    del lmm.hf_model.model.language_model.layers[1]
    with pytest.raises(vi.CapabilityError, match="has 3 decoder layers, and had 4"):
        lmm.generate(tiny.encode(), max_new_tokens=1)


def test_layers_that_stand_elsewhere_than_they_say_are_refused():
    """Swapped, cut out in the middle, or used twice; set right, a knockout acts where it stands."""
    said = r"layer 1 calls itself layer 2 \(self_attn.layer_idx\).*set its self_attn.layer_idx"
    open_one = {"processor": tiny.processor(), "sinks": tiny.SINKS, "check": False}
    lmm = tiny.fresh()
    layers = lmm.hf_model.model.language_model.layers
    layers[1], layers[2] = layers[2], layers[1]
    for ask in (lambda: lmm.run(tiny.encode()), lambda: vi.LMM(lmm.hf_model, **open_one)):
        with pytest.raises(vi.CapabilityError, match=said):
            ask()
    reference = tiny.hf_model(attention="eager")
    theirs = reference.model.language_model.layers
    theirs[1], theirs[2] = theirs[2], theirs[1]
    for one in (layers, theirs):
        for place, layer in enumerate(one):
            layer.self_attn.layer_idx = place
    run = vi.LMM(lmm.hf_model, **open_one).run(
        tiny.encode(), graph=vi.Knockout("image -> query", 1)
    )
    layout, inputs = tiny.encode().layout, tiny.encode().inputs
    edits = restated.knockout(layout, ["image"], ["query"], [1])
    assert apart(run.logits, restated.forward(reference, inputs, **edits)) < 2e-5
    assert apart(run.logits, restated.forward(reference, inputs)) > 0.1
    layers[2] = layers[1]
    with pytest.raises(vi.CapabilityError, match=r"layer 2 calls itself layer 1.*deepcopy"):
        vi.LMM(lmm.hf_model, **open_one)
    del layers[0]
    with pytest.raises(vi.CapabilityError, match="layer 0 calls itself layer 1"):
        vi.LMM(lmm.hf_model, **open_one)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named_by_their_layer(value):
    lmm = tiny.fresh()
    with torch.no_grad():
        lmm.hf_model.model.language_model.layers[2].mlp.down_proj.weight[3, 4] = value
    for ask in (lambda: lmm.run(tiny.encode()), lambda: lmm.generate(tiny.encode())):
        with pytest.raises(vi.CapabilityError, match=r"not numbers.* layer 2 is the first"):
            ask()


OTHER_TYPES = """
from dataclasses import fields, replace
import numpy as np
import torch
import vsink_interp as vi
from jaxtyping import Float
from tests import nodes, tiny

lmm, image = tiny.lmm(), tiny.image()
image.save(PATH)

@vi.probe("hook_resid_pre")
def number(resid, site) -> Float[torch.Tensor, "batch query"]:
    return float(resid.sum())

def refused(error, words, ask):
    try:
        ask()
    except error as found:
        assert words in str(found), found
    else:
        raise AssertionError(words)

for graph in (vi.VAR, [vi.VAR], [vi.Knockout("image -> query"), vi.VAR]):
    refused(vi.NotationError, "VAR is a class", lambda: lmm.run(tiny.encode(), graph=graph))
listed = vi.Fn("hook_resid_pre", lambda value, _: value.tolist(), layers=0)
refused(vi.CapabilityError, "into a list", lambda: lmm.run(tiny.encode(), graph=listed))
refused(vi.CapabilityError, "returned float", lambda: lmm.run(tiny.encode(), graph=number))
refused(vi.NotationError, "whole number", lambda: vi.SinkDims((1.5,), 2.0))
refused(vi.InputError, "('count',) * 2", lambda: vi.experiments.Cases((image,) * 2, "count"))
asked = {"samples": [(image, "count")], "folder": "nowhere"}
refused(vi.InputError, "a function without arguments", lambda: vi.run_dataset("toy", **asked))
cases = vi.experiments.Cases([PATH, image], ["count", "count"])
assert cases.prompts == ("count", "count")
assert all(np.array_equal(np.asarray(one), np.asarray(image)) for one in cases.images)

numbers = 0
for node in {type(node): node for node in nodes.EDITS.values()}.values():
    for name in (field.name for field in fields(node) if type(getattr(node, field.name)) is float):
        plain = replace(node, **{name: 0.5})
        for half in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5)):
            found = replace(node, **{name: half})
            assert (found, repr(found)) == (plain, repr(plain)), found
            vi.EditGraph(found).to_json()
        for wrong in (True, "0.5", [0.5]):
            refused(vi.NotationError, f"{name} of ", lambda: replace(node, **{name: wrong}))
        numbers += 1
assert numbers > 12, numbers
"""


def test_values_of_other_types_are_refused_or_right(tmp_path):
    """In a process of its own: here annotations are checked, and would refuse them before us."""
    program = OTHER_TYPES.replace("PATH", repr(str(tmp_path / "a.png")))
    done = plain_process.run(program)
    assert done.returncode == 0, done.stderr


def twice_as_sharp(module, query, key, value, given, scaling=None, **more):
    """An attention function of one's own, whose mask has another name than transformers gives."""
    own = ALL_ATTENTION_FUNCTIONS["sdpa"]
    return own(module, query, key, value, given, scaling=2 * scaling, **more)


@pytest.fixture
def sharp():
    ALL_ATTENTION_FUNCTIONS.register("sharp", twice_as_sharp)
    ALL_MASK_ATTENTION_FUNCTIONS.register("sharp", sdpa_mask)
    yield "sharp"
    del ALL_ATTENTION_FUNCTIONS._global_mapping["sharp"]
    del ALL_MASK_ATTENTION_FUNCTIONS._global_mapping["sharp"]


def test_attention_that_was_set_after_opening_was_not_tried_and_is_refused(sharp, monkeypatch):
    lmm = tiny.fresh()
    encoding, plain = tiny.encode(), tiny.plain(lmm, tiny.encode())
    lmm.hf_model.set_attn_implementation("eager")
    assert apart(lmm.run(encoding).logits, plain) < 2e-5
    lmm.hf_model.set_attn_implementation(sharp)
    asks = (
        lambda: lmm.run(encoding),
        lambda: lmm.run(encoding, graph=vi.VAR()),
        lambda: lmm.generate(encoding, max_new_tokens=1),
    )
    for ask in asks:
        with pytest.raises(vi.CapabilityError, match=r"is 'sharp', and was .*open the model anew"):
            ask()
    lmm.hf_model.set_attn_implementation("sdpa")
    assert torch.equal(lmm.run(encoding).logits, plain)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", twice_as_sharp)
    with pytest.raises(vi.CapabilityError, match="'sdpa' is another function than it was"):
        lmm.run(encoding)


def test_attention_of_ones_own_is_tried_when_the_model_is_opened(sharp):
    model = tiny.hf_model()
    model.set_attn_implementation(sharp)
    lmm = vi.LMM(model, tiny.processor(), sinks=tiny.SINKS)
    assert {name.rpartition("_")[2] for name in lmm.hooked.failed} == {"scores", "pattern"}
    assert torch.equal(lmm.run(tiny.encode()).logits, tiny.plain(lmm, tiny.encode()))
    with pytest.raises(vi.CapabilityError, match="changes the logits"):
        lmm.run(tiny.encode(), graph=vi.VAR())


@pytest.mark.parametrize(
    ("returns", "shown"),
    [
        ("batch query", r'-> Float\[Tensor, "batch query"\].*got \'batch query\''),
        ("query", r'-> Float\[Tensor, "query"\]'),
        ("Float[Tensor, 'query'", r'-> Float\[Tensor, "batch head query"\]'),
        (torch.Tensor, "got Tensor"),
        (Float[torch.Tensor, "..."], "a name for each axis"),
        (None, "got nothing"),
    ],
)
def test_axes_that_are_not_named_as_they_should_be(returns, shown):
    def spelled(value, site):
        del site
        return value

    spelled.__annotations__["return"] = returns
    with pytest.raises(vi.NotationError, match=f"spelled must say what it returns.*{shown}"):
        vi.probe("hook_resid_pre")(spelled)


def test_axes_in_one_text_are_refused():
    with pytest.raises(vi.NotationError, match=r"is a tuple of names, \('batch', 'query'\)"):

        class Mine(vi.Probe):
            layers, hook, axes = ":", "hook_resid_pre", "batch query"

            def measure(self, value, site):
                del site
                return value


def test_another_default_device_of_torch_is_refused():
    """`torch.set_default_device("cuda")`, as notebooks begin."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    with torch.device("meta"):
        for ask in (lambda: lmm.run(encoding), lambda: lmm.encode(*tiny.PROMPTS["one image"])):
            with pytest.raises(
                vi.InputError, match=r"new tensors on meta.*set_default_device\(None"
            ):
                ask()
    assert torch.equal(lmm.run(encoding).logits, tiny.plain(lmm, encoding))
