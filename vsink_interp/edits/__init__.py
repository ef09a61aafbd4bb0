"""Edits: nodes that change a forward pass. One edit per file."""

from . import recipes as recipes
from .ablate import Ablate as Ablate
from .act import ACT as ACT
from .add_scores import AddScores as AddScores
from .contrast import Contrast as Contrast
from .copy_head import CopyHead as CopyHead
from .directions import Directions as Directions
from .drop_keys import DropKeys as DropKeys
from .fn import Fn as Fn
from .hide_keys import HideKeys as HideKeys
from .knockout import Knockout as Knockout
from .move_neurons import MoveNeurons as MoveNeurons
from .patch import Patch as Patch
from .redistribute import Redistribute as Redistribute
from .scale_heads import ScaleHeads as ScaleHeads
from .scale_keys import ScaleKeys as ScaleKeys
from .scale_pattern import ScalePattern as ScalePattern
from .scale_scores import ScaleScores as ScaleScores
from .set_dims import SetDims as SetDims
from .softmax_register import SoftmaxRegister as SoftmaxRegister
from .steer import Steer as Steer
from .var import VAR as VAR
