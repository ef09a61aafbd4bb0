"""Interpretability of large multimodal models: named hook points, edit graphs, attention sinks."""

from . import (
    catalogue as catalogue,
    edits as edits,
    experiments as experiments,
    integrations as integrations,
    kernels as kernels,
    metrics as metrics,
    plot as plot,
    probes as probes,
    toy as toy,
)
from .catalogue import CatalogueEntry as CatalogueEntry
from .compress import CompressedContext as CompressedContext
from .context import Context as Context
from .dataset import Rows as Rows, run_dataset as run_dataset
from .edits import (
    VAR as VAR,
    Ablate as Ablate,
    DropKeys as DropKeys,
    Fn as Fn,
    Knockout as Knockout,
)
from .encoding import Encoding as Encoding
from .engine import Server as Server
from .errors import (
    CapabilityError as CapabilityError,
    InputError as InputError,
    LayoutError as LayoutError,
    NotationError as NotationError,
    RemoteError as RemoteError,
    ResultError as ResultError,
    UnreachableError as UnreachableError,
    VsinkError as VsinkError,
)
from .graph import Edit as Edit, EditGraph as EditGraph, Probe as Probe
from .heads import (
    HEAD_PROBES as HEAD_PROBES,
    HeadRanking as HeadRanking,
    head_probes as head_probes,
    rank_heads as rank_heads,
)
from .hooks import HOOKS as HOOKS, HookPoint as HookPoint
from .lmm import LMM as LMM
from .probes import probe as probe
from .readout import Readout as Readout, readout as readout
from .results import Recorded as Recorded, Run as Run
from .session import Job as Job, Session as Session
from .sinkdims import SinkDims as SinkDims
from .sinks import (
    SinkReport as SinkReport,
    Verdict as Verdict,
    find_sink_dims as find_sink_dims,
    verify as verify,
)
from .site import Site as Site
from .spans import ImageSpan as ImageSpan, View as View
from .tokens import TokenLayout as TokenLayout
