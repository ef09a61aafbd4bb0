"""Figures of a few real measurements on the toy LMM."""

import pytest

import vsink_interp as vi
from vsink_interp import experiments as ex


@pytest.fixture(scope="package")
def sunk():
    """The toy LMM with the sinks that it was trained to have."""
    return vi.LMM.toy()


@pytest.fixture(scope="package")
def cases():
    return ex.Cases.scenes(2)


@pytest.fixture(scope="package")
def maps(sunk):
    scene = vi.toy.scene(0)
    return ex.word_maps(sunk, scene.image, "describe the image", layers=tuple(range(2, 8)))
