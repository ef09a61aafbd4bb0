"""Draw docs/assets/overview.png, the picture of the README: `python docs/gen_overview.py`."""

from pathlib import Path

import vsink_interp as vi
from vsink_interp import experiments as ex

PICTURE = Path(__file__).parent / "assets" / "overview.png"
SEED = 3


def main() -> None:
    """A toy scene, the attention of one word of its caption, and the same after VAR."""
    lmm = vi.LMM.toy()
    maps = ex.word_maps(lmm, vi.toy.scene(SEED).image, "describe the image")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(vi.plot.png(vi.plot.overview(maps.at(maps.most_changed))))


if __name__ == "__main__":
    main()
