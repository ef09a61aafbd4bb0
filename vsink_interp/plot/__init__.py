"""Figures of results, for notebooks and papers, and the HTML report.

The only room that uses matplotlib and circuitsvis, which are imported when a figure is drawn. Each
function takes a result and returns a matplotlib `Figure` that is not registered with pyplot.
"""

from .attribution_patching import attribution_patching as attribution_patching
from .compressed import compressed_context as compressed_context
from .heads import heads as heads
from .image_attribution import image_attribution as image_attribution
from .lens import (
    image_lens as image_lens,
    logit_attribution as logit_attribution,
    word_lens as word_lens,
)
from .localisation import localisation as localisation
from .overlay import overlay as overlay
from .overview import overview as overview
from .patching import patching as patching
from .patterns import attention_patterns as attention_patterns
from .query_only import query_only as query_only
from .register_neurons import register_neurons as register_neurons
from .report import report as report
from .reproduction import reproduction as reproduction
from .segments import segment_mass as segment_mass
from .sinks import (
    contributions as contributions,
    phi_histogram as phi_histogram,
    phi_scatter as phi_scatter,
    sink_ablation as sink_ablation,
    spectrum as spectrum,
)
from .study import Study as Study
from .style import COLOURS as COLOURS, png as png
from .sweep import knockout_sweep as knockout_sweep
from .tokens import TokenView as TokenView, token_strengths as token_strengths
from .vision_sinks import vision_sinks as vision_sinks
