"""Kang et al., ICLR 2025, arXiv 2503.03321: visual attention sinks and VAR."""
