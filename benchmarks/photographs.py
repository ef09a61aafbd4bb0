"""Real photographs with boxes of our own: what a form says of them, and where its sinks lie.

The photographs are scikit-image's, those that it says are CC0 or in the public domain. No form was
trained to describe photographs; crops of those in `vsink_interp.small.scenes.PHOTOS` stood behind
training scenes.
"""

from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image

import vsink_interp as vi
from vsink_interp.small.scenes import PHOTOS

BOXES = {
    "astronaut.png": {
        "woman": (18, 12, 365, 512),
        "shuttle": (352, 0, 470, 285),
        "helmet": (278, 342, 512, 512),
        "flag": (0, 0, 97, 512),
    },
    "camera.png": {"man": (0, 65, 330, 512), "camera": (232, 138, 405, 512)},
    "chelsea.png": {"cat": (25, 0, 400, 300)},
    "clock_motion.png": {"clock": (141, 91, 281, 218)},
    "coffee.png": {"cup": (172, 17, 405, 312), "spoon": (319, 66, 425, 327)},
    "horse.png": {"horse": (17, 8, 390, 312)},
    "retina.jpg": {"optic disc": (109, 567, 311, 756)},
    "rocket.jpg": {"rocket": (305, 127, 340, 410)},
}
"""Left, top, right, bottom in pixels of the file, drawn by hand."""
ASKED = "Describe the image."
LAYERS = (6, 15)


def photograph(name):
    """A photograph of scikit-image's wheel."""
    wheel = metadata.distribution("scikit-image")
    return Image.open(Path(str(wheel.locate_file(f"skimage/data/{name}")))).convert("RGB")


def described(lmm):
    """For each photograph the answer, its sinks, and how many of them lie in a box."""
    probe, found = vi.probes.SinkValue("image"), {}
    for name, boxes in BOXES.items():
        run = lmm.generate(photograph(name), ASKED, probe, max_new_tokens=32)
        span = run.layout.images[0][0]
        inside = np.zeros(span.size, bool)
        for box in boxes.values():
            inside[list(span.tokens_in(box))] = True
        is_sink = (run.of(probe, "image").values[:, 0] >= lmm.sinks.tau).numpy()
        found[name] = {
            "boxes": list(boxes),
            "seen behind scenes": name in PHOTOS,
            "answer": run.text,
            "in a box": float(inside.mean()),
            "sinks": {str(layer): int(is_sink[layer].sum()) for layer in LAYERS},
            "sinks in a box": {str(at): int((is_sink[at] & inside).sum()) for at in LAYERS},
        }
    return found
