"""Published figures and tables as functions of a model and some cases. One per file."""

from .answers import (
    AnswerWord as AnswerWord,
    answer_words as answer_words,
    answers as answers,
    naming_rows as naming_rows,
    spoken_words as spoken_words,
)
from .attribution_patching import (
    AttributionSweep as AttributionSweep,
    attribution_patching as attribution_patching,
)
from .cases import Cases as Cases
from .compressed import (
    CompressedAnswers as CompressedAnswers,
    ContextScore as ContextScore,
    Quizzes as Quizzes,
    compressed_context as compressed_context,
)
from .contributions import Contributions as Contributions, contributions as contributions
from .depth import (
    map_layers as map_layers,
    middle_layers as middle_layers,
    pattern_layers as pattern_layers,
    sweep_layers as sweep_layers,
)
from .image_attribution import (
    ImageAttribution as ImageAttribution,
    gradient_attention as gradient_attention,
    integrated_gradients as integrated_gradients,
)
from .image_heads import image_heads as image_heads
from .image_lens import (
    ImageLens as ImageLens,
    WordLens as WordLens,
    image_lens as image_lens,
    word_lens as word_lens,
)
from .knockout_sweep import (
    FLOWS as FLOWS,
    KnockoutSweep as KnockoutSweep,
    knockout_sweep as knockout_sweep,
)
from .localisation import Localisation as Localisation, localisation as localisation
from .logit_attribution import LogitParts as LogitParts, logit_attribution as logit_attribution
from .object_masks import ObjectMasks as ObjectMasks
from .overlays import WordMaps as WordMaps, word_maps as word_maps
from .patching import PatchSweep as PatchSweep, patching as patching
from .query_only import QueryOnly as QueryOnly, query_only as query_only
from .register_neurons import (
    RegisterNeurons as RegisterNeurons,
    register_neurons as register_neurons,
)
from .segment_mass import (
    SegmentShares as SegmentShares,
    segment_mass as segment_mass,
    three_way as three_way,
)
from .sink_ablation import SinkAblation as SinkAblation, sink_ablation as sink_ablation
from .sink_values import SinkValues as SinkValues, sink_values as sink_values
from .spectrum import Spectrum as Spectrum, spectrum as spectrum
from .text_token_attention import (
    TokenStrengths as TokenStrengths,
    token_strengths as token_strengths,
)
from .vision_sinks import VisionSinks as VisionSinks, vision_sinks as vision_sinks
