"""Scores of answers and maps: pure functions of texts, objects and arrays, without a model."""

from .localisation import (
    Canvas as Canvas,
    axis_weights as axis_weights,
    chance as chance,
    dilated as dilated,
    distance_to as distance_to,
    wilson as wilson,
)
from .objects import (
    FUNCTION_WORDS as FUNCTION_WORDS,
    ObjectScore as ObjectScore,
    content_words as content_words,
    score_objects as score_objects,
)
from .yes_no import yes_or_no as yes_or_no
