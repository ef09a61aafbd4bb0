"""Videos: against plain transformers, given pixels that numpy cuts from the frames."""

import numpy as np
import pytest
import torch
from PIL import Image

import vsink_interp as vi
from tests import nodes
from tests.families.plain import cut
from vsink_interp.families import FAMILIES
from vsink_interp.families.tiny import build

SIDE = 56  # two image tokens by two
SIZE = (SIDE**2, SIDE**2)
KNOWN = [form for form in FAMILIES if form.video]


def opened(form, attention="sdpa"):
    config, processor = form.tiny()
    return vi.LMM(build(config, attention), processor, family=form, check=False)


@pytest.fixture(scope="module", params=KNOWN, ids=lambda form: form.name)
def model(request):
    return opened(request.param)


def frames(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def patches(shown, processor):
    """`[steps * patches, 3 * 2 * 14 * 14]`, with the axes of the official video processor."""
    settings = processor.image_processor
    pixels = (shown / 255 - settings.image_mean) / settings.image_std
    t, side = len(shown) // 2, SIDE // 28
    cut_up = pixels.transpose(0, 3, 1, 2).reshape(t, 2, 3, side, 2, 14, side, 2, 14)
    rows = cut_up.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * (2 * side) ** 2, -1)
    return torch.tensor(rows, dtype=torch.float32)


def plainly(model, encoding, shown):
    """Logits of the plain model for these tokens and pixels made here."""
    ids = encoding.inputs["input_ids"]
    more = {"second_per_grid_ts": [2 / 2.0]} if "2.5" in model.hooked.family.name else {}
    with torch.no_grad():
        return model.hf_model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.hf_model.config.video_token_id).int() * 2,
            pixel_values_videos=patches(shown, model.processor),
            video_grid_thw=torch.tensor([[len(shown) // 2, SIDE // 14, SIDE // 14]]),
            **more,
        ).logits


def test_a_video_is_what_transformers_makes_of_its_frames(model):
    shown = frames(6)
    encoding = model.encode(vi.Video(shown, size=SIZE), "describe the disc")
    assert str(encoding.layout).count("image[2x2=4]") == 3
    assert encoding.layout.frames == ((0, 0, 1, 1, 2, 2),)
    run = model.run(encoding)
    assert nodes.apart(run.logits, plainly(model, encoding, shown)) < 1e-4
    other = model.run(vi.Video(frames(6, 1), size=SIZE), "describe the disc")
    assert nodes.apart(run.logits, other.logits) > 1e-3
    backwards = model.run(vi.Video(shown[::-1].copy(), size=SIZE), "describe the disc")
    assert nodes.apart(run.logits, backwards.logits) > 1e-3


def test_frames_are_groups(model):
    """Frames that are merged share their tokens; cut edges are those of a plain attention mask."""
    shown = frames(4)
    encoding = model.encode(vi.Video(shown, size=SIZE), "describe the disc")
    layout = encoding.layout
    assert torch.equal(layout.mask("frame[3]"), layout.mask("image[1]"))
    assert torch.equal(layout.mask("frame[0]"), layout.mask("frame[1]"))
    assert int(layout.mask("frame[2]").sum()) == 4
    with pytest.raises(vi.LayoutError, match=r"no frame\[4\] token"):
        model.run(encoding, graph=vi.Knockout("frame[4] -> query"))
    phi = vi.probes.SinkValue(dims=(1, 5))
    edited = model.run(encoding, graph=vi.Knockout("frame[3] -> query") | phi)
    eager = opened(model.hooked.family, "eager")
    with cut(eager.hf_model, layout.mask("query"), layout.mask("image[1]"), range(4)):
        want = plainly(eager, encoding, shown)
    assert nodes.apart(edited.logits, want) < 1e-4
    assert nodes.apart(edited.logits, model.run(encoding).logits) > 1e-3
    assert len(edited.sinks(2, tau=0)) == 8
    assert edited.sinks(2, tau=0)[4].box == (0, 0, 28, 28)
    run = model.generate(encoding, graph=vi.Knockout("frame[0] -> generated"), max_new_tokens=3)
    assert run.text is not None


def test_videos_in_batches_and_messages(model):
    one, two = (vi.Video(frames(n, n), size=SIZE) for n in (3, 4))
    together = model.run([one, two], ["what is this", "describe the big disc"])
    for i, (video, text) in enumerate(((one, "what is this"), (two, "describe the big disc"))):
        alone = model.run(video, text)
        assert nodes.apart(together.logits[i, -1], alone.logits[0, -1]) < 1e-4
    assert together.layout.frames == ((0, 0, 1), (0, 0, 1, 1))


def test_what_cannot_be_shown_is_refused_by_name(model):
    video, image = vi.Video(frames(2), size=SIZE), Image.fromarray(frames(1)[0])
    with pytest.raises(vi.CapabilityError, match="twice"):
        model.encode([video, image], "<image> <image> compare")
    with pytest.raises(vi.InputError, match=r"not decoded here.*vi\.Video\(\["):
        model.encode("clip.mp4", "what is this")
    with pytest.raises(vi.InputError, match="not decoded here"):
        vi.Video("clip.mp4")
    with pytest.raises(vi.InputError, match="of one size"):
        vi.Video([image, image.resize((20, 20))])
    with pytest.raises(vi.InputError, match="frame height width"):
        vi.Video(frames(1)[0])
    with pytest.raises(vi.CapabilityError, match="not of videos"):
        model.generate(video, "what is this", vi.Contrast("noise"), max_new_tokens=2)


def test_families_without_videos_say_so(lmm):
    with pytest.raises(vi.CapabilityError, match=r"LLaVA-1.5.*'image\[3\]'"):
        lmm.encode(vi.Video(frames(2)), "describe the image")


TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def test_a_video_in_a_message(model, monkeypatch):
    monkeypatch.setattr(model.processor, "chat_template", TEMPLATE)
    clip = vi.Video(frames(4), size=SIZE)
    text = {"type": "text", "text": "describe the disc"}
    own = [{"role": "user", "content": [{"type": "video", "video": clip}, text]}]
    given = [{"role": "user", "content": [{"type": "video"}, text]}]
    first, second = model.encode(None, own), model.encode(clip, given)
    assert torch.equal(first.inputs["input_ids"], second.inputs["input_ids"])
    assert torch.equal(first.layout.mask("turn[0] & image"), first.layout.mask("frame[0] frame[2]"))
    with pytest.raises(vi.InputError, match="given were: image"):
        model.encode(Image.fromarray(frames(1)[0]), given)
