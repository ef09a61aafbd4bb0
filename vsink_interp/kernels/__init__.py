"""The arithmetic of every edit and probe: pure functions of tensors and numbers.

They import only torch and math and keep no state, so that their source can be sent to a remote
server. For the same reason shapes are given in docstrings, not in annotations.
"""

from .attend import (
    add_mask as add_mask,
    attend as attend,
    attention_scores as attention_scores,
    log_total as log_total,
    softmax as softmax,
)
from .attribution import (
    attributed as attributed,
    output_along as output_along,
    value_along as value_along,
)
from .calibration import calibrate as calibrate
from .contrast import contrast as contrast, diffuse as diffuse
from .logits import softcapped as softcapped
from .masks import (
    cut as cut,
    cut_tokens as cut_tokens,
    edges_between as edges_between,
    random_like as random_like,
)
from .measure import (
    contribution as contribution,
    group_mass as group_mass,
    head_result as head_result,
    non_sink_ratio as non_sink_ratio,
    output_gram as output_gram,
    value_norms as value_norms,
)
from .neurons import move_neurons as move_neurons
from .patterns import (
    copy_head as copy_head,
    move_mass as move_mass,
    register as register,
    top_heads as top_heads,
)
from .redistribution import (
    redistribute as redistribute,
    redistribution_offsets as redistribution_offsets,
    redistribution_terms as redistribution_terms,
)
from .residual import with_norm_of as with_norm_of
from .scores import (
    add_scores as add_scores,
    raise_scores as raise_scores,
    scale_scores as scale_scores,
    visible_edges as visible_edges,
)
from .sinks import normalised as normalised, sink_value as sink_value
