"""Scores of answers. Pure functions of texts and objects, no model."""

from .objects import (
    FUNCTION_WORDS as FUNCTION_WORDS,
    ObjectScore as ObjectScore,
    content_words as content_words,
    score_objects as score_objects,
)
from .yes_no import yes_or_no as yes_or_no
