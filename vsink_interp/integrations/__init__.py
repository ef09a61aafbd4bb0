"""Bridges to other packages, each needed only by the functions of its file."""

from .transformer_lens import (
    cache_graph as cache_graph,
    run_with_cache as run_with_cache,
    to_transformer_lens as to_transformer_lens,
)
