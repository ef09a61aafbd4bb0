"""The boards that images are cut from, against the official functions.

These cannot be imported without torchvision, so they are taken out of their files.
"""

import ast
import math
from collections import defaultdict, namedtuple
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vsink_interp.families import cohere2_vision, llama4

Sides = namedtuple("Sides", "height width")
SIZES = [
    *((side, other) for side in (1, 40, 56, 57, 100, 112, 200) for other in (1, 39, 56, 168, 500)),
    *((int(y), int(x)) for y, x in np.random.default_rng(0).integers(1, 700, (200, 2))),
]


@cache
def official(model):
    """The functions of its image processor's file that stand on their own."""
    path = Path(find_spec("transformers").origin).parent / f"models/{model}"
    tree = ast.parse((path / f"image_processing_{model}.py").read_text())
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = {"np": np, "torch": torch, "defaultdict": defaultdict, "lru_cache": lru_cache}
    names |= {"math": math, "SizeDict": Sides}
    exec(compile(ast.Module(kept, []), str(path), "exec"), names)
    return SimpleNamespace(**names)


@pytest.mark.parametrize("most", [1, 4, 12])
def test_cohere2_vision_chooses_the_official_grid(most):
    theirs = official("cohere2_vision").get_optimal_tiled_canvas
    for size in SIZES:
        assert cohere2_vision.canvas(size, 56, most) == theirs(size, (56, 56), 1, most), size


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("most", [1, 4, 16])
def test_llama4_chooses_the_official_board_and_size(most, largest):
    theirs = official("llama4")
    boards = theirs.find_supported_resolutions(most, Sides(56, 56))
    assert llama4.canvases(most, 56) == boards
    for size in SIZES:
        board = theirs.get_best_fit(size, torch.tensor(boards), largest)
        ours = llama4.canvas(size, 56, most, largest=largest)
        assert ours == tuple(int(side) for side in board), size
        limit = ours if largest else tuple(
            min(max(side, 56), end) for side, end in zip(size, ours, strict=True)
        )  # fmt: skip
        fitted = theirs.get_max_res_without_distortion(size, limit)
        wanted = tuple(max(int(side), 1) for side in fitted)
        assert llama4.fitted(size, ours, 56, largest=largest) == wanted, size
