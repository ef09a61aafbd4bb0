"""Read yes/no answers as MME does."""

from typing import Literal


def yes_or_no(text: str) -> Literal["yes", "no", "other"]:
    """What an answer says: "yes" or "no" within its first four letters, lower-cased, or neither.

    The parser of MME (Fu et al. 2023, arXiv 2306.13394), as Kaduri et al. (2025) use it; "other"
    counts as wrong.
    """
    start = text.strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"
