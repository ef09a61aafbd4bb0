"""Draw docs/assets/overview.png, the figure of the README: `python docs/gen_overview.py`."""

from pathlib import Path

import numpy as np

import vsink_interp as vi
from vsink_interp import experiments as ex

ASSET = Path(__file__).parent / "assets" / "overview.png"
SCENES = 16


def moved(maps: ex.WordMaps) -> float:
    """The most attention that the edit moves for any one word."""
    return float(np.abs(maps.after - maps.before).sum(1).max())


def main() -> None:
    """Of a few scenes, the one in which VAR moves the most: its maps before and after."""
    lmm = vi.LMM.toy()
    every = [
        ex.word_maps(lmm, vi.toy.scene(seed).image, "describe the image") for seed in range(SCENES)
    ]
    best = max((maps.at(maps.most_changed) for maps in every), key=moved)
    ASSET.parent.mkdir(exist_ok=True)
    ASSET.write_bytes(vi.plot.png(vi.plot.overview(best)))


if __name__ == "__main__":
    main()
