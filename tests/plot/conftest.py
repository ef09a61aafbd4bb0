"""Figures of a few real measurements on a toy LMM with planted sinks."""

import pytest

import vsink_interp as vi
from vsink_interp import experiments as ex

DIMS = (3, 7)


@pytest.fixture(scope="package")
def sunk():
    """A toy LMM whose sink dimensions are set so that about two image tokens in 64 are sinks."""
    lmm = vi.LMM.toy()
    probe = vi.probes.SinkValue("image", dims=DIMS)
    phi = lmm.run(vi.toy.scene(0).image, "describe the image", probe)[probe].values
    lmm.sinks = vi.SinkDims(DIMS, float(phi[2:].quantile(0.97)), source="planted")
    return lmm


@pytest.fixture(scope="package")
def cases():
    return ex.Cases.scenes(2)


@pytest.fixture(scope="package")
def maps(sunk):
    scene = vi.toy.scene(0)
    return ex.word_maps(sunk, scene.image, "describe the image", layers=tuple(range(2, 8)))
