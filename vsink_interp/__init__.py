"""Interpretability of large multimodal models: named hook points, edit graphs, attention sinks."""

from . import (
    edits,
    errors,
    experiments,
    families,
    integrations,
    kernels,
    metrics,
    plot,
    probes,
    toy,
)
from .edits import (
    ACT,
    VAR,
    AddScores,
    Contrast,
    CopyHead,
    DropKeys,
    Fn,
    HideKeys,
    Knockout,
    Patch,
    Redistribute,
    ScaleHeads,
    ScaleKeys,
    ScaleScores,
    SetDims,
    Steer,
)
from .errors import (
    CapabilityError,
    InputError,
    LayoutError,
    NotationError,
    RemoteError,
    ResultError,
    UnreachableError,
    VsinkError,
)
from .graph import HOOKS, Edit, EditGraph, HookPoint, Probe, Site
from .model import (
    LMM,
    CompressedContext,
    Context,
    Encoding,
    Job,
    Readout,
    RunStore,
    Session,
    readout,
    run_dataset,
)
from .probes import probe
from .remote import Server
from .results import Recorded, Run
from .sinks import (
    HEAD_PROBES,
    CatalogueEntry,
    HeadRanking,
    SinkDims,
    SinkReport,
    Verdict,
    catalogue,
    find_sink_dims,
    head_probes,
    rank_heads,
    verify,
)
from .tokens import ImageSpan, TokenLayout, View

__all__ = (  # noqa: RUF022 (in the order of the pages of the documentation)
    # a model, its prompts and its runs
    "LMM",
    "Encoding",
    "TokenLayout",
    "ImageSpan",
    "View",
    "Run",
    "Recorded",
    "CompressedContext",
    "Context",
    "Readout",
    "readout",
    "RunStore",
    "run_dataset",
    "Server",
    "Session",
    "Job",
    # edits, probes and the graph that joins them
    "ACT",
    "AddScores",
    "Contrast",
    "CopyHead",
    "DropKeys",
    "Fn",
    "HideKeys",
    "Knockout",
    "Patch",
    "Redistribute",
    "ScaleHeads",
    "ScaleKeys",
    "ScaleScores",
    "SetDims",
    "Steer",
    "VAR",
    "probe",
    "Edit",
    "Probe",
    "EditGraph",
    "Site",
    "HookPoint",
    "HOOKS",
    # sinks and image-centric heads
    "SinkDims",
    "SinkReport",
    "find_sink_dims",
    "catalogue",
    "CatalogueEntry",
    "Verdict",
    "verify",
    "HeadRanking",
    "HEAD_PROBES",
    "head_probes",
    "rank_heads",
    # rooms with more in them
    "edits",
    "probes",
    "experiments",
    "metrics",
    "plot",
    "toy",
    "families",
    "kernels",
    "integrations",
    "errors",
    # what is raised
    "CapabilityError",
    "InputError",
    "LayoutError",
    "NotationError",
    "RemoteError",
    "ResultError",
    "UnreachableError",
    "VsinkError",
)


def __dir__() -> list[str]:
    """What a user should touch; rooms that are only loaded do not show."""
    return sorted(__all__)
