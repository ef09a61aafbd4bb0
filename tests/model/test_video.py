"""Videos: against plain transformers, given pixels that numpy cuts from the frames."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

import vsink_interp as vi
from tests import nodes
from tests.families.plain import cut
from vsink_interp.families import FAMILIES
from vsink_interp.families.tiny import build

KNOWN = [form for form in FAMILIES if form.video]
SIDE = {"LLaVA-OneVision": 42, "Qwen3-VL": 64, "Qwen3.5": 64}
"""Pixels along a frame that is two image tokens by two; 56 elsewhere."""


def opened(form, attention="sdpa"):
    config, processor = form.tiny()
    return vi.LMM(build(config, attention), processor, family=form, check=False)


@pytest.fixture(scope="module", params=KNOWN, ids=lambda form: form.name)
def model(request):
    return opened(request.param)


def merged(model):
    """How many frames share their tokens."""
    return 1 if model.hooked.family.name == "LLaVA-OneVision" else 2


def frames(model, n, seed=0):
    side = SIDE.get(model.hooked.family.name, 56)
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def clip(model, shown):
    side = shown.shape[1]
    return vi.Video(shown, size=None if merged(model) == 1 else (side**2, side**2))


def patches(shown, processor):
    """`[steps * patches, 3 * 2 * p * p]`, with the axes of the official video processor."""
    pixels, p = normed(shown, processor), processor.image_processor.patch_size
    t, side = len(shown) // 2, shown.shape[1] // (2 * p)
    cut_up = pixels.transpose(0, 3, 1, 2).reshape(t, 2, 3, side, 2, p, side, 2, p)
    rows = cut_up.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * (2 * side) ** 2, -1)
    return torch.tensor(rows, dtype=torch.float32)


def normed(shown, processor):
    settings = processor.image_processor
    return (shown / 255 - settings.image_mean) / settings.image_std


def pixels(model, ids, shown):
    """What the plain model is given of a video."""
    if merged(model) == 1:
        whole = normed(shown, model.processor).transpose(0, 3, 1, 2)
        return {"pixel_values_videos": torch.tensor(whole, dtype=torch.float32)[None]}
    side = shown.shape[1] // model.processor.image_processor.patch_size
    more = {"second_per_grid_ts": [2 / 2.0]} if "2.5" in model.hooked.family.name else {}
    return more | {
        "mm_token_type_ids": (ids == model.hf_model.config.video_token_id).int() * 2,
        "pixel_values_videos": patches(shown, model.processor),
        "video_grid_thw": torch.tensor([[len(shown) // 2, side, side]]),
    }


def plainly(model, encoding, shown):
    """Logits of the plain model for these tokens and pixels made here."""
    ids = encoding.inputs["input_ids"]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        return model.hf_model(**given, **pixels(model, ids, shown)).logits


def test_a_video_is_what_transformers_makes_of_its_frames(model):
    shown = frames(model, 6)
    encoding = model.encode(clip(model, shown), "describe the disc")
    steps = tuple(number // merged(model) for number in range(6))
    assert encoding.layout.frames == (steps,)
    assert int(encoding.layout.mask("image & ~separator").sum()) == 4 * (max(steps) + 1)
    run = model.run(encoding)
    assert nodes.apart(run.logits, plainly(model, encoding, shown)) < 1e-4
    other = model.run(clip(model, frames(model, 6, 1)), "describe the disc")
    assert nodes.apart(run.logits, other.logits) > 1e-3
    backwards = model.run(clip(model, shown[::-1].copy()), "describe the disc")
    assert nodes.apart(run.logits, backwards.logits) > 1e-3


def test_frames_are_groups(model):
    """Frames that are merged share their tokens; cut edges are those of a plain attention mask."""
    shown, step = frames(model, 4), 3 // merged(model)
    encoding = model.encode(clip(model, shown), "describe the disc")
    layout = encoding.layout
    assert torch.equal(layout.mask("frame[3]"), layout.mask(f"image[{step}]"))
    shared = torch.equal(layout.mask("frame[0]"), layout.mask("frame[1]"))
    assert shared == (merged(model) == 2)
    assert int(layout.mask("frame[2] & ~separator").sum()) == 4
    layers = model.layers_with("attn.hook_pattern")
    with pytest.raises(vi.LayoutError, match=r"no frame\[4\] token"):
        model.run(encoding, graph=vi.Knockout("frame[4] -> query", layers))
    phi = vi.probes.SinkValue(dims=(1, 5))
    edited = model.run(encoding, graph=vi.Knockout("frame[3] -> query", layers) | phi)
    eager = opened(model.hooked.family, "eager")
    with cut(eager.hf_model, layout.mask("query"), layout.mask(f"image[{step}]"), layers):
        want = plainly(eager, encoding, shown)
    assert nodes.apart(edited.logits, want) < 1e-4
    assert nodes.apart(edited.logits, model.run(encoding).logits) > 1e-3
    boxed = [one for one in edited.sinks(2, tau=0) if one.box]
    half = shown.shape[1] / 2
    assert len(boxed) == 4 * (step + 1)
    assert boxed[4].box == (0, 0, half, half)
    maps = vi.probes.AttentionMaps("generated", layers)
    looked = model.generate(encoding, graph=maps, max_new_tokens=3)
    assert vi.plot.overlay(looked, Image.fromarray(shown[3]), number=step).axes
    unseen = vi.Knockout("frame[0] -> generated", layers)
    run = model.generate(encoding, graph=unseen, max_new_tokens=3)
    assert nodes.apart(run.logits[:, 1], looked.logits[:, 1]) > 1e-3
    assert torch.equal(run.logits[:, 0], looked.logits[:, 0])


def test_videos_in_batches_and_messages(model):
    lengths = (3, 4) if merged(model) == 2 else (3, 3)
    one, two = (clip(model, frames(model, n, i)) for i, n in enumerate(lengths))
    together = model.run([one, two], ["what is this", "describe the big disc"])
    for i, (video, text) in enumerate(((one, "what is this"), (two, "describe the big disc"))):
        alone = model.run(video, text)
        assert nodes.apart(together.logits[i, -1], alone.logits[0, -1]) < 1e-4
    wanted = tuple(tuple(i // merged(model) for i in range(n)) for n in lengths)
    assert together.layout.frames == wanted


def test_a_video_is_a_compressed_context(model):
    """With all of it kept, the plain model reads prompt and question at once."""
    shown, asked, all_kept = frames(model, 4), "describe the disc", vi.CompressedContext(1.0)
    if model.hooked.family.name == "Qwen3.5":
        with pytest.raises(vi.CapabilityError, match="LinearAttentionLayer"):
            model.compress(clip(model, shown), asked, all_kept, max_new_tokens=1)
        return
    context = model.compress(clip(model, shown), asked, all_kept, max_new_tokens=1)
    run = context.ask("is it red", max_new_tokens=1)
    assert torch.equal(run.layout.mask("frame[3]"), run.layout.mask(f"image[{3 // merged(model)}]"))
    prompt = model.encode(clip(model, shown), asked).inputs["input_ids"]
    ids = torch.cat([prompt, run.ids[:, prompt.shape[1] : -1]], 1)
    with torch.no_grad():
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        want = model.hf_model(**given, **pixels(model, ids, shown)).logits[:, -1]
    assert nodes.apart(run.logits[:, 0], want) < 1e-4


@pytest.mark.parametrize("name", ["Qwen3-VL", "Qwen3.5"])
def test_times_are_written_as_transformers_writes_them(name):
    """By the official processor's own code, whose video processor needs torchvision."""
    model = opened(next(form for form in KNOWN if form.name == name))
    shown, processor = frames(model, 5), model.processor
    films = [vi.Video(shown, fps=fps, size=(64**2, 64**2)) for fps in (2, 0.7)]
    encoding = model.encode(films, "<video> and <video>")
    own = SimpleNamespace(
        **{f"{mark}_token": f"<|{mark}|>" for mark in ("vision_start", "vision_end")},
        video_token="<|video_pad|>",
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        _calculate_timestamps=partial(Qwen3VLProcessor._calculate_timestamps, None),
    )
    about = [SimpleNamespace(fps=fps, frames_indices=[*range(5)]) for fps in (2, 0.7)]
    given = {"video_grid_thw": encoding.inputs["video_grid_thw"], "video_metadata": about}
    texts = [Qwen3VLProcessor.replace_video_token(own, given, number) for number in (0, 1)]
    assert [text.split("<|")[0] for text in texts] == ["<0.2 seconds>", "<0.7 seconds>"]
    want = Qwen3VLProcessor.get_text_with_replacements(
        processor, [*encoding.prompts], videos_replacements=texts
    )[0]
    assert encoding.inputs["input_ids"].tolist() == processor.tokenizer(want).input_ids
    layout = encoding.layout
    assert layout.frames == ((0, 0, 1, 1, 2, 3, 3, 4, 4, 5),)
    stamps = layout.mask("query & separator").sum() - 2 * 2  # what stands around both videos
    between = [text.replace("<|video_pad|>", "") for text in texts]
    assert stamps == sum(len(ids) for ids in processor.tokenizer(between).input_ids)


def test_what_cannot_be_shown_is_refused_by_name(model):
    video, image = clip(model, frames(model, 2)), Image.fromarray(frames(model, 1)[0])
    with pytest.raises(vi.CapabilityError, match="twice"):
        model.encode([video, image], "<image> <image> compare")
    with pytest.raises(vi.InputError, match=r"not decoded here.*vi\.Video\(\["):
        model.encode("clip.mp4", "what is this")
    with pytest.raises(vi.InputError, match="not decoded here"):
        vi.Video("clip.mp4")
    with pytest.raises(vi.InputError, match="of one size"):
        vi.Video([image, image.resize((20, 20))])
    with pytest.raises(vi.InputError, match="frame height width"):
        vi.Video(frames(model, 1)[0])
    with pytest.raises(vi.CapabilityError, match="not of videos"):
        model.generate(video, "what is this", vi.Contrast("noise"), max_new_tokens=2)


def test_a_second_pass_over_a_video_has_edits_of_its_own(model):
    layers = model.layers_with("attn.hook_attn_scores")
    shown, cut = frames(model, 4), vi.Knockout("image -> query generated", layers)
    encoding = model.encode(clip(model, shown), "describe the disc")
    contrast = vi.Contrast(graph=cut, alpha=0.5, beta=0.0)
    run = model.generate(encoding, graph=contrast, max_new_tokens=2)
    given = encoding.with_answer(run.generated[:, :1])
    first, second = (model.run(given, graph=graph).logits[:, -2:] for graph in (None, cut))
    assert nodes.apart(first[:, 0], plainly(model, encoding, shown)[:, -1]) < 1e-4
    assert nodes.apart(run.logits, 1.5 * first - 0.5 * second) < 1e-3
    assert nodes.apart(first, second) > 1e-2


@pytest.mark.parametrize("size", [(200, 100), (0, 10)])
def test_sizes_are_two_numbers_of_pixels(size):
    with pytest.raises(vi.InputError, match="the least and the most pixels"):
        vi.Video(np.zeros((2, 8, 8, 3), np.uint8), size=size)


def test_frames_are_those_of_their_own_prompt(tmp_path):
    """In a batch that is run in parts, of which one shows no video; on disk; placed in a prompt."""
    model = vi.LMM.tiny("Qwen2-VL")
    shown, other = (clip(model, frames(model, 4, seed)) for seed in (0, 1))
    prompts = ["what is this", "describe the disc"]
    whole = model.run([None, shown], prompts)
    parts = model.run([None, shown], prompts, batch_size=1)
    assert parts.layout.frames == whole.layout.frames == ((), (0, 0, 1, 1))
    for group in ("frame[0]", "frame[3]"):
        assert torch.equal(parts.layout.mask(group), whole.layout.mask(group))
        assert whole.layout.mask(group).sum(1).tolist() == [0, 4]
    both = model.run([shown, other], "<video> and <video>").layout
    assert both.frames == ((0, 0, 1, 1, 2, 2, 3, 3),)
    with pytest.raises(vi.InputError, match=r"places a <video>, and no video"):
        model.encode(Image.fromarray(frames(model, 1)[0]), "<video> what is this")
    with pytest.raises(vi.InputError, match="one part for each image"):
        part = {"type": "image", "image": [*shown.frames]}
        model.encode(None, [{"role": "user", "content": [part, {"type": "text", "text": "hi"}]}])

    def stored(video):
        asked = [(video, "what is this")]
        return vi.run_dataset(model, asked, folder=tmp_path, max_new_tokens=1)

    assert next(iter(stored(shown))).layout.frames == ((0, 0, 1, 1),)
    with pytest.raises(vi.ResultError, match="differ in: digest"):
        stored(vi.Video(shown.frames, fps=1.0, size=shown.size))


def test_families_without_videos_say_so(lmm):
    with pytest.raises(vi.CapabilityError, match=r"LLaVA-1.5.*'image\[3\]'"):
        lmm.encode(vi.Video([vi.toy.scene(0).image] * 2), "describe the image")


TEMPLATES = {
    n: "{% for message in messages %}<|im_start|>{{ message['role'] }}" + "\n" * (n == 2)
    + " " * (n == 1) + "{% for part in message['content'] %}{% if part['type'] == 'video' %}" + mark
    + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>" + "\n" * (n == 2)
    + "{% endfor %}<|im_start|>assistant\n"
    for n, mark in ((1, "<video>"), (2, "<|vision_start|><|video_pad|><|vision_end|>"))
}  # fmt: skip


def test_a_video_in_a_message(model, monkeypatch):
    monkeypatch.setattr(model.processor, "chat_template", TEMPLATES[merged(model)])
    shown = clip(model, frames(model, 4))
    text = {"type": "text", "text": "describe the disc"}
    own = [{"role": "user", "content": [{"type": "video", "video": shown}, text]}]
    given = [{"role": "user", "content": [{"type": "video"}, text]}]
    first, second = model.encode(None, own), model.encode(shown, given)
    assert torch.equal(first.inputs["input_ids"], second.inputs["input_ids"])
    assert torch.equal(first.layout.mask("turn[0] & image"), first.layout.mask("image"))
    with pytest.raises(vi.InputError, match="given were: image"):
        model.encode(Image.fromarray(frames(model, 1)[0]), given)
