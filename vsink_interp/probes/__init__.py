"""Probes: nodes that record values of a forward pass and change nothing. One probe per file."""

from .activation import Activation as Activation, Logits as Logits, Resid as Resid
from .attribution import LogitAttribution as LogitAttribution, Projection as Projection
from .contribution import Contribution as Contribution
from .function import ProbeFunction as ProbeFunction, probe as probe
from .gradient import Gradient as Gradient
from .lens import LogitLens as LogitLens, TokenProbability as TokenProbability
from .maps import AttentionMaps as AttentionMaps
from .mass import (
    LearnedSinkMass as LearnedSinkMass,
    NonSinkRatio as NonSinkRatio,
    SegmentMass as SegmentMass,
)
from .pattern import Pattern as Pattern
from .sink_value import SinkValue as SinkValue
