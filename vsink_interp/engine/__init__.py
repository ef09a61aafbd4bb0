"""The local interpreter: runs a plan in one nnsight trace of a model in this process."""

from .attention import AttentionBinding as AttentionBinding
from .cache import prefix_of as prefix_of, refuse_prefix as refuse_prefix
from .contrast_pass import ContrastInputs as ContrastInputs
from .execute import Outcome as Outcome, execute as execute
from .hooked_model import ATTENDING as ATTENDING, HookedModel as HookedModel
from .masks import own_mask as own_mask
from .module_hooks import live as live
from .turns import TakingTurns as TakingTurns, turns_of as turns_of
