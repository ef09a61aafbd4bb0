"""Llama 4: tiles of a padded image, then all of it; most layers attend in chunks of tokens."""

from collections.abc import Mapping
from math import floor
from typing import Any

import torch
from PIL.Image import Image

from ..tokens import ImageSpan, View
from .form import CLIP_LAYER, Family, Tap, whole_image

MARKER, PATCH = "<|image|>", "<|patch|>"
START, END = "<|image_start|>", "<|image_end|>"
ACROSS, DOWN = "<|tile_x_separator|>", "<|tile_y_separator|>"
USER = "<|header_start|>user<|header_end|>\n\n"
ASSISTANT = "<|header_start|>assistant<|header_end|>\n\n"

Size = tuple[int, int]
"""Height and width."""


def canvases(most: int, tile: int) -> list[Size]:
    """The sizes of all boards of at most so many tiles, in the order of its image processor."""
    by_shape: dict[float, list[Size]] = {}
    for count in range(most, 0, -1):
        for rows in (n for n in range(1, count + 1) if count % n == 0):
            columns = count // rows
            by_shape.setdefault(rows / columns, []).append((rows * tile, columns * tile))
    return [size for sizes in by_shape.values() for size in sizes]


def canvas(size: Size, tile: int, most: int, *, largest: bool = False) -> Size:
    """The board that an image is laid on, as its image processor chooses it.

    Of those that the image fits in the one that enlarges it least, or else the one that shrinks it
    least; of equal ones the smallest. These functions are stated here because the official ones
    cannot be imported without torchvision.

    **Arguments:**

    - `tile`: how many pixels wide and high a tile is.
    - `most`: the greatest number of tiles.
    - `largest`: enlarge it most instead (`resize_to_max_canvas`).
    """
    boards = canvases(most, tile)
    sides = torch.tensor(boards)  # single precision, as there, so that equal scales are the same
    scales = torch.minimum(sides[:, 0] / size[0], sides[:, 1] / size[1])
    holding = scales[scales >= 1]
    holding = holding if len(holding) else scales.max()
    chosen = holding.max() if largest else holding.min()
    fitting = [board for board, scale in zip(boards, scales, strict=True) if scale == chosen]
    return min(fitting, key=lambda board: board[0] * board[1])


def fitted(size: Size, board: Size, tile: int, *, largest: bool = False) -> Size:
    """The size that an image has on its board: as large as fits, but enlarged to one tile at most.

    **Arguments:** as of `canvas`.
    """
    most = board if largest else tuple(
        min(max(side, tile), end) for side, end in zip(size, board, strict=True)
    )  # fmt: skip
    across, down = most[1] / size[1], most[0] / size[0]
    if across < down:
        height, width = min(floor(size[0] * across), most[0]), most[1]
    else:
        height, width = most[0], min(floor(size[1] * down), most[1])
    return max(height, 1), max(width, 1)


def padded_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """Per image its tiles in raster order, then all of it if there are several; a board's padding
    at the right and the bottom lies outside the image.
    """
    del inputs
    settings, tile = processor.image_processor, config.vision_config.image_size
    side = round(tile / processor.patch_size / processor.downsample_ratio**0.5)
    found = []
    for image in images:
        size, largest = (image.height, image.width), settings.resize_to_max_canvas
        board = canvas(size, tile, settings.max_patches, largest=largest)
        height, width = fitted(size, board, tile, largest=largest)
        down, across = tile * size[0] / height, tile * size[1] / width
        tiles = [
            View((side, side), (x * across, y * down, (x + 1) * across, (y + 1) * down))
            for y in range(board[0] // tile)
            for x in range(board[1] // tile)
        ]
        whole = [View((side, side), whole_image(image))] if len(tiles) > 1 else []
        found.append(ImageSpan.of((*tiles, *whole), len(tiles) + len(whole) - 1))
    return tuple(found)


def image_processor() -> Any:
    """The class of its image processor without torchvision."""
    import numpy as np
    from transformers import BatchFeature
    from transformers.image_processing_backends import PilBackend
    from transformers.image_utils import PILImageResampling, SizeDict

    class Llama4ImageProcessorPil(PilBackend):
        resample = PILImageResampling.BILINEAR
        image_mean = image_std = [0.5, 0.5, 0.5]  # noqa: RUF012 (as its base has it)
        size = {"height": 336, "width": 336}  # noqa: RUF012
        do_resize = do_rescale = do_normalize = do_convert_rgb = True
        max_patches = 16
        resize_to_max_canvas = False

        def _preprocess(  # ty: ignore[incompatible-method-override]  # the rest is in `more`
            self, images: list[Any], size: Any, resample: Any, return_tensors: Any, **more: Any
        ) -> Any:
            del more
            tiles, ratios = [], []
            for image in images:
                shape, tile, largest = image.shape[-2:], size.height, self.resize_to_max_canvas
                board = canvas(shape, tile, self.max_patches, largest=largest)
                height, width = fitted(shape, board, tile, largest=largest)
                part = self.resize(image, SizeDict(height=height, width=width), resample=resample)
                laid = np.pad(part, ((0, 0), (0, board[0] - height), (0, board[1] - width)))
                rows, columns = board[0] // tile, board[1] // tile
                cut = laid.reshape(3, rows, tile, columns, tile).transpose(1, 3, 0, 2, 4)
                tiles.extend(cut.reshape(-1, 3, tile, tile))
                if rows * columns > 1:
                    tiles.append(self.resize(image, size, resample=resample))
                ratios.append([rows, columns])
            # In half precision, as the official one.
            pixels = torch.from_numpy(np.stack(tiles)).to(torch.bfloat16) * self.rescale_factor
            pixels = (pixels - 0.5) / 0.5
            if return_tensors == "np":  # numpy has no such precision
                pixels = pixels.float()
            made = {"pixel_values": pixels, "aspect_ratios": ratios}
            return BatchFeature(made, tensor_type=return_tensors)

    return Llama4ImageProcessorPil


def tiny() -> tuple[Any, Any]:
    """A tiny Llama 4 of chunks of six tokens; every other layer is without positions, and every
    other has experts.
    """
    from transformers import Llama4Config, Llama4Processor

    from .tiny import TEXT, VISION, fill, tokenizer

    marks = (MARKER, PATCH, START, END, ACROSS, DOWN, "<|header_start|>", "<|header_end|>")
    words = tokenizer(*marks, "<|eot|>")
    images = fill(image_processor(), size={"height": 56, "width": 56}, max_patches=4)
    processor = fill(Llama4Processor, images, words, patch_size=14, chat_template=None)
    text = {
        "intermediate_size_mlp": 96, "head_dim": 16, "num_local_experts": 2,
        "layer_types": ["chunked_attention", "full_attention"] * 2, "attention_chunk_size": 6,
        "no_rope_layers": [1, 0, 1, 0], "interleave_moe_layer_step": 2,
    }  # fmt: skip
    tower = {
        "image_size": 56, "patch_size": 14, "vision_output_dim": 32, "projector_input_dim": 32,
        "projector_output_dim": 32, "intermediate_size": 128,
    }  # fmt: skip
    config = fill(
        Llama4Config,
        text_config={**TEXT, **text, "vocab_size": len(words)},
        vision_config={**VISION, **tower},
        image_token_index=words.convert_tokens_to_ids(PATCH),
    )
    return config, processor


LLAMA4 = Family(
    name="Llama 4",
    model_types=("llama4",),
    decoder="language_model.model",
    head="language_model.lm_head",
    vision_layers="vision_model.model.layers",
    vision_taps={**CLIP_LAYER, "hook_resid_post": Tap("", "first output")},
    projector="multi_modal_projector",
    projected="q d",
    projects_late=True,
    spans=padded_spans,
    marker=MARKER,
    suffix=END,
    template=f"{USER}{{content}}<|eot|>{ASSISTANT}",
    role_markers=(USER, ASSISTANT, "<|eot|>"),
    tiny=tiny,
)
