"""Model families: one filled form each. A family says where things are, and computes nothing."""

from .base import Family as Family, Tap as Tap
from .llava import LLAVA as LLAVA

FAMILIES: tuple[Family, ...] = (LLAVA,)
"""Every known family."""
