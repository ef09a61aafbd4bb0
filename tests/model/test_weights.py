"""Where a model is loaded from, on which device and in which precision."""

import importlib.util
import time

import pytest
import torch
from huggingface_hub import constants

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp.model import weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("weights") / "tiny"
    tiny.hf_model().save_pretrained(place)
    tiny.processor().save_pretrained(place)
    return place


def test_a_model_says_what_it_is_and_where():
    lmm = tiny.lmm()
    assert lmm.device == torch.device("cpu")
    assert lmm.dtype == torch.float32
    assert lmm.config is lmm.hf_model.config
    assert lmm.tokenizer is lmm.processor.tokenizer


@pytest.mark.parametrize("dtype", ["bfloat16", "bf16", "torch.bfloat16", torch.bfloat16])
def test_precision_is_named_in_any_way(folder, dtype):
    lmm = vi.LMM.from_pretrained(str(folder), dtype=dtype, device="cpu", check=False)
    assert lmm.dtype == torch.bfloat16
    assert lmm.device == torch.device("cpu")


def test_moving_to_half_precision_is_loading_in_it(folder):
    """The rotary frequencies too, which a plain `.to` rounds."""
    loaded = vi.LMM.from_pretrained(folder, dtype="bfloat16", check=False)
    moved = tiny.fresh()
    assert moved.to(torch.bfloat16) is moved
    encoding = loaded.encode(*tiny.PROMPTS["one image"])
    assert torch.equal(moved.run(encoding).logits, loaded.run(encoding).logits)
    plain = tiny.hf_model().to(torch.bfloat16)
    with torch.no_grad():
        assert not torch.equal(plain(**encoding.inputs).logits, loaded.run(encoding).logits)


@pytest.mark.skipif(not importlib.util.find_spec("accelerate"), reason="needs accelerate")
def test_a_model_that_was_spread_is_not_moved(folder):
    lmm = vi.LMM.from_pretrained(folder, device_map="cpu", check=False)
    assert torch.equal(lmm.run(tiny.encode()).logits, tiny.plain(tiny.lmm(), tiny.encode()))
    if getattr(lmm.hf_model, "hf_device_map", None) is None:
        lmm.hf_model.hf_device_map = {"": "cpu"}
    with pytest.raises(vi.CapabilityError, match="load it anew with device="):
        lmm.to("cpu")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://huggingface.co/llava-hf/llava-1.5-7b-hf", "'llava-hf/llava-1.5-7b-hf'"),
        ("s3://bucket/model", "is not fetched: download it first"),
        ("./no/such/folder", "there is no folder no/such/folder"),
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("~/no-such-folder", "there is no folder /"),
        ("models/llava/finetuned", "there is no folder"),
    ],
)
def test_a_source_that_is_none_is_refused(source, message):
    with pytest.raises(vi.InputError, match=message):
        vi.LMM.from_pretrained(source)


def test_a_folder_without_a_model_says_what_it_holds(tmp_path):
    with pytest.raises(vi.InputError, match=r"holds no config\.json.*nothing"):
        vi.LMM.from_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(vi.InputError, match=r"it holds: adapter_config\.json"):
        vi.LMM.from_pretrained(tmp_path)


@pytest.mark.parametrize("switched_off", [True, False])
def test_without_network_an_id_fails_at_once(monkeypatch, switched_off):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switched_off)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(vi.UnreachableError, match="hf download some/model"):
        vi.LMM.from_pretrained("some/model")
    assert time.monotonic() - started < weights.PATIENCE + 5


def test_without_network_what_was_downloaded_is_taken(monkeypatch, tmp_path, folder):
    """A cache of the Hub as it lays one out, and a Hub that does not answer."""
    commit = "0" * 40
    there = tmp_path / "models--some--model"
    (there / "snapshots").mkdir(parents=True)
    (there / "snapshots" / commit).symlink_to(folder)
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    lmm = vi.LMM.from_pretrained("some/model", cache_dir=tmp_path, check=False)
    assert torch.equal(lmm.run(tiny.encode()).logits, tiny.plain(tiny.lmm(), tiny.encode()))
    assert lmm.name == "model"


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"dtype": "bfloat"}, vi.InputError, "did you mean 'bfloat16'"),
        ({"device": "gpu"}, vi.InputError, "'cuda:1'"),
        ({"device": "cpu", "device_map": "auto"}, vi.InputError, "say one"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, how, error, message):
    with pytest.raises(error, match=message):
        vi.LMM.from_pretrained(folder, **how)


def test_a_gpu_that_is_not_there_and_a_package_that_is_missing(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(vi.CapabilityError, match="sees no GPU"):
        vi.LMM.from_pretrained(folder, device="cuda")
    monkeypatch.setattr(weights, "find_spec", {}.get)
    with pytest.raises(vi.CapabilityError, match=r"vsink-interp\[accelerate\]"):
        vi.LMM.from_pretrained(folder, device_map="auto")


@pytest.mark.gpu
@pytest.mark.parametrize("how", [{"device": "cuda"}, {"device_map": "auto"}])
def test_on_a_gpu(folder, how):
    lmm = vi.LMM.from_pretrained(folder, dtype="bfloat16", check=False, **how)
    assert lmm.device.type == "cuda"
    run = lmm.generate(*tiny.PROMPTS["one image"], vi.Knockout("image -> query"), max_new_tokens=3)
    assert run.logits.device.type == "cpu"
    assert torch.isfinite(run.logits).all()


def test_a_quantised_model_is_the_one_that_transformers_loads(folder):
    """Eight bits, on the CPU: `quantization_config` is handed on, and edits act on the result."""
    pytest.importorskip("optimum.quanto")
    from transformers import QuantoConfig

    lmm = vi.LMM.from_pretrained(folder, quantization_config=QuantoConfig(weights="int8"))
    lmm.sinks = tiny.SINKS
    encoding = lmm.encode(*tiny.PROMPTS["one image"])
    plain = tiny.plain(lmm, encoding)
    exact = vi.LMM.from_pretrained(folder, check=False).run(encoding).logits
    assert 0 < nodes.apart(plain, exact) < 0.5
    resid, parts = (
        vi.probes.Activation(hook, layers=2) for hook in ("hook_attn_out", "attn.hook_result")
    )
    run = lmm.run(encoding, graph=resid | parts | vi.probes.SegmentMass())
    assert torch.equal(run.logits, plain)
    assert nodes.apart(run[parts].sum("head").values, run[resid].values) < 1e-4
    cut = lmm.run(encoding, graph=vi.Knockout("image -> query"))
    assert nodes.apart(cut.logits, plain) > 1e-3
    same = vi.Fn("hook_mlp_out", lambda value, hook: value * 1)  # noqa: ARG005
    assert torch.equal(lmm.run(encoding, graph=same).logits, plain)
    with pytest.raises(vi.CapabilityError, match="placed as it was loaded"):
        lmm.to("cpu")


def test_frequencies_keep_their_precision_and_their_imaginary_part():
    model, angles = torch.nn.Linear(2, 2), torch.linspace(0.1, 3.0, 4)
    model.register_buffer("freqs_ci", torch.polar(torch.ones(4), angles))
    model.register_buffer("inv_freq", angles.clone())
    weights.moved(model, torch.bfloat16)
    assert model.weight.dtype == torch.bfloat16
    assert torch.equal(model.inv_freq, angles)
    assert torch.equal(model.freqs_ci, torch.polar(torch.ones(4), angles))
