"""What cannot be tried on the least version of transformers (`make oldest`)."""

from importlib.metadata import version

OLDEST = version("transformers").startswith("5.18.")
FAMILIES = ("Gemma 4",) if OLDEST else ()
"""There Gemma 4's processor wants torchvision; the library says so where a model is opened."""
