"""Sink dimensions: finding them, a catalogue of known ones, and image-centric heads."""

from .catalogue import CatalogueEntry as CatalogueEntry
from .causal import CausalCheck as CausalCheck
from .dims import SinkDims as SinkDims
from .discovery import (
    SinkReport as SinkReport,
    Verdict as Verdict,
    find_sink_dims as find_sink_dims,
    verify as verify,
)
from .image_heads import (
    HEAD_PROBES as HEAD_PROBES,
    HeadRanking as HeadRanking,
    head_probes as head_probes,
    rank_heads as rank_heads,
)
from .threshold import Threshold as Threshold
