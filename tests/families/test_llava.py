"""LLaVA: its form, and where an image token lies in the image."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp.families.llava import LLAVA, clip_box, llava_spans
from vsink_interp.families.tiny import build


@pytest.mark.parametrize("size", [(42, 42), (126, 63), (63, 126), (90, 84)])
@pytest.mark.parametrize("patch", [0, 2, 4, 7])
def test_the_box_of_a_patch_is_the_square_that_the_processor_cuts(size, patch):
    """A dark rectangle drawn on the box makes that patch of the pixels the darkest."""
    image = Image.new("RGB", size, "white")
    (span,) = llava_spans(tiny.config(), tiny.processor(), [image], {})
    left, top, right, bottom = span.patch_box(patch)
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill="black")
    pixels = tiny.processor().image_processor(image, return_tensors="np")["pixel_values"][0]
    squares = np.asarray(pixels).mean(0).reshape(3, 14, 3, 14).mean((1, 3)).flatten()
    assert squares.argmin() == patch
    others = np.delete(squares, patch)
    assert squares[patch] < others.min() - 0.8 * (others.max() - squares[patch])


def read_off(settings, size):
    """The part of an image that a processor keeps, read off its pixels: of two ramps, one along
    each axis, that resizing keeps straight.
    """
    width, height = size
    ramp = np.zeros((height, width, 3))
    ramp[..., 0] = 40 + 160 * (np.arange(width) + 0.5) / width
    ramp[..., 1] = (40 + 160 * (np.arange(height) + 0.5) / height)[:, None]
    image = Image.fromarray(ramp.round().astype(np.uint8))
    pixels = settings(
        image,
        return_tensors="np",
        do_normalize=False,
        do_rescale=False,
        resample=2,
        image_mean=(0.0, 0.0, 0.0),
    )["pixel_values"][0]
    ends = []
    for values, whole in ((pixels[0].max(0), width), (pixels[1].max(1), height)):
        seen = np.flatnonzero((values > 45) & (values < 195))[2:-2]  # no padding, no border
        per_pixel, start = np.polyfit(seen + 0.5, values[seen], 1)
        at = (np.array([0, len(values)]) * per_pixel + start - 40) / 160 * whole
        ends.append(at)
    (left, right), (top, bottom) = ends
    return image, (left, top, right, bottom)


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (87, 64), (61, 92), (33, 33), (45, 31)])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"do_pad": True},
        {"crop_size": {"height": 25, "width": 31}},
        {"do_center_crop": False, "size": {"height": 42, "width": 42}},
        {"size": {"shortest_edge": 29}},
        {"do_resize": False, "size": {"shortest_edge": 20}},
        {"do_pad": True, "do_resize": False, "crop_size": {"height": 150, "width": 150}},
    ],
    ids=str,
)
def test_the_box_is_what_the_processor_keeps(size, more):
    """Padding to a square, crops at whole pixels, and images smaller than the crop."""
    settings = LlavaImageProcessorPil(
        **{"size": {"shortest_edge": 42}, "crop_size": {"height": 42, "width": 42}, **more}
    )
    image, expected = read_off(settings, size)
    processor = SimpleNamespace(image_processor=settings)
    (span,) = llava_spans(tiny.config(), processor, [image], {})
    np.testing.assert_allclose(span.box, expected, atol=0.25)


def test_padding_to_a_square_by_hand():
    image = Image.new("RGB", (200, 100))
    size, crop = {"shortest_edge": 42}, {"height": 42, "width": 42}
    assert clip_box(size, crop, image, squared=True) == pytest.approx((0, -50, 200, 150))
    assert clip_box({"longest_edge": 42}, crop, image) is None


def test_without_a_crop_the_whole_image_is_covered():
    image = Image.new("RGB", (80, 40))
    assert clip_box({"height": 42, "width": 42}, None, image) == (0, 0, 80, 40)
    assert clip_box({"shortest_edge": 42}, {"height": 42, "width": 42}, image) == (20, 0, 60, 40)


def test_taps_name_modules_of_the_model():
    model = tiny.lmm().hf_model
    family = tiny.lmm().hooked.family
    assert family.tap("blocks.{layer}.attn.hook_q", 2).module == (
        "model.language_model.layers.2.self_attn.q_proj"
    )
    for point in nodes.POINTS:
        if not point.computed:
            model.get_submodule(family.tap(point.template, 0).module)


def with_all_features():
    """A tiny LLaVA that is given the CLS feature of its tower too."""
    config, processor = LLAVA.tiny()
    config.vision_feature_select_strategy = "full"
    config.image_seq_length = 10
    processor.vision_feature_select_strategy = "full"
    return vi.LMM(build(config), processor, check=False)


def test_the_cls_feature_is_an_image_token_without_a_place():
    model = with_all_features()
    encoding = model.encode([tiny.image(), tiny.image(1)], "compare <image> with <image>")
    spans = encoding.layout.images[0]
    assert [span.size for span in spans] == [10, 10]
    assert spans[0].places[:2] == (None, (0, 0, 0))
    assert spans[0].tokens_of() == tuple(range(1, 10))
    ids = encoding.inputs["input_ids"]
    assert torch.equal(encoding.layout.mask("image"), ids == model.hf_model.config.image_token_id)
    assert encoding.layout.mask("image & separator").sum() == 2
    with pytest.raises(vi.LayoutError, match="not a patch"):
        spans[0].patch_box(0)
    entering = vi.probes.Resid("image", 0, at="pre")
    run = model.run(encoding, graph=entering)
    with torch.no_grad():
        theirs = model.hf_model(**encoding.inputs).logits
        features = model.hf_model.model.get_image_features(
            encoding.inputs["pixel_values"][:1]
        ).pooler_output
    assert torch.equal(run.logits, theirs)
    image = encoding.layout.image_index[0] == 0
    first = int(image.int().argmax())
    assert run[entering].coords["query"][0] == first
    assert torch.allclose(run[entering].values[0, 0, :10], features[0], atol=1e-6)


def test_with_the_cls_feature_a_box_is_still_that_of_its_patch():
    model = with_all_features()
    span = model.encode(tiny.image(), "count").layout.images[0][0]
    (plain,) = llava_spans(tiny.config(), tiny.processor(), [tiny.image()], {})
    assert [span.patch_box(1 + i) for i in range(9)] == [plain.patch_box(i) for i in range(9)]


def test_a_saved_run_keeps_the_place_of_the_cls_feature(tmp_path):
    model = with_all_features()
    run = model.run(model.encode(tiny.image(), "count"))
    run.save(tmp_path / "run")
    assert vi.Run.load(tmp_path / "run").layout.images == run.layout.images


@pytest.mark.parametrize(
    ("features", "read"), [(-1, 2), (-2, 1), (1, 1), ([-2, 1], 1), ([1, -1], 2), (2, 2)]
)
def test_edits_in_layers_of_the_tower_that_nobody_reads_are_refused(features, read):
    """LLaVA reads the layer before the last; what is written behind it changes no logit."""
    config, processor = LLAVA.tiny()
    config.vision_feature_layer = features
    model = vi.LMM(build(config), processor, check=False)
    encoding = model.encode(tiny.image(), "count")
    base, hook = model.run(encoding).logits, "vision_encoder.blocks.{layer}.hook_resid_post"
    for layer in range(model.hooked.n_vision_layers):
        edit = vi.Fn(hook, nodes.grow, layers=layer)
        reference = build(config)
        reference.load_state_dict(model.hf_model.state_dict())
        grown = reference.get_submodule(model.hooked.family.vision_layers)[layer]
        grown.forward = lambda *given, own=grown.forward, **more: 1.5 * own(*given, **more)
        with torch.no_grad():
            theirs = reference(**encoding.inputs).logits
        assert torch.equal(theirs, base) == (layer >= read)
        if layer < read:
            assert nodes.apart(model.run(encoding, graph=edit).logits, theirs) < 1e-5
            continue
        for node in (edit, vi.probes.Gradient(hook, "logit of 7 at last", layer)):
            with pytest.raises(vi.CapabilityError, match=f"reaches nothing.* up to {read - 1}"):
                model.run(encoding, graph=node)
        seen = model.run(encoding, graph=vi.probes.Activation(hook, layer))
        assert torch.equal(seen.logits, base)
