"""Draw docs/assets/localisation.png, and print the tables of docs/concepts/localisation.md:
`python docs/gen_localisation.py`."""

from pathlib import Path

import numpy as np

import vsink_interp as vi
from vsink_interp import experiments as ex
from vsink_interp.toy.scenes import PATCH

ASSET = Path(__file__).parent / "assets" / "localisation.png"
SCENES, FIRST = 200, 20000


def main() -> None:
    """Every object of the scenes, with and without sinks; strictly; and the paper's selection."""
    lmm, located = vi.LMM.toy(), ex.ObjectMasks.scenes(SCENES, FIRST)
    every = ex.localisation(lmm, located)
    direct = ex.localisation(lmm, located, only_direct=True)
    own = ex.localisation(lmm, located, row="token", keys="image")
    for found in (every, every.within(0), direct, own):
        print(found, end="\n\n")
    moved = np.hypot(*np.moveaxis(every.peaks[0] - every.peaks[1], -1, 0)) > PATCH / 2
    print("peaks on a sink, by layer:", moved.mean(-1).round(2))
    ASSET.write_bytes(vi.plot.png(vi.plot.localisation(every)))


if __name__ == "__main__":
    main()
