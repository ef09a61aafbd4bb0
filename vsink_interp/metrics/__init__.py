"""Scores of answers and maps: pure functions of texts, objects and arrays, without a model."""

from .chair import (
    ChairScore as ChairScore,
    ObjectWords as ObjectWords,
    score_chair as score_chair,
)
from .choices import CHOICE_RULES as CHOICE_RULES, read_choice as read_choice
from .judges import (
    Agreement as Agreement,
    ChatJudge as ChatJudge,
    Judge as Judge,
    LexicalJudge as LexicalJudge,
    LocalJudge as LocalJudge,
    Rated as Rated,
    judge_agreement as judge_agreement,
)
from .localisation import (
    Canvas as Canvas,
    axis_weights as axis_weights,
    chance as chance,
    dilated as dilated,
    distance_to as distance_to,
    wilson as wilson,
)
from .mme import (
    COGNITION as COGNITION,
    PERCEPTION as PERCEPTION,
    MmeAnswer as MmeAnswer,
    MmeScore as MmeScore,
    SubtaskScore as SubtaskScore,
    score_mme as score_mme,
)
from .objects import (
    FUNCTION_WORDS as FUNCTION_WORDS,
    ObjectScore as ObjectScore,
    content_places as content_places,
    content_words as content_words,
    score_objects as score_objects,
)
from .paired import (
    PairedDifference as PairedDifference,
    mcnemar as mcnemar,
    mean_interval as mean_interval,
    paired_difference as paired_difference,
    pooled_interval as pooled_interval,
)
from .pope import PopeScore as PopeScore, score_pope as score_pope
from .vqa import (
    group_accuracy as group_accuracy,
    normalise_answer as normalise_answer,
    vqa_accuracy as vqa_accuracy,
)
from .yes_no import RULES as RULES, Rule as Rule, read_answer as read_answer
