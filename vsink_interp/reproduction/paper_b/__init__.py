"""Kaduri et al., CVPR 2025, arXiv 2411.17491: what is in the image, and where it flows."""
