"""Interpretability of large multimodal models: named hook points, edit graphs, attention sinks."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        edits,
        errors,
        evaluation,
        experiments,
        families,
        integrations,
        kernels,
        metrics,
        plot,
        probes,
        reproduction,
        toy,
        viewer,
    )
    from .edits import (
        ACT,
        VAR,
        Ablate,
        AddScores,
        Contrast,
        CopyHead,
        Directions,
        DropKeys,
        Fn,
        HideKeys,
        Knockout,
        MoveNeurons,
        Patch,
        Redistribute,
        ScaleHeads,
        ScaleKeys,
        ScalePattern,
        ScaleScores,
        SetDims,
        SoftmaxRegister,
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
    from .evaluation import evaluate
    from .graph import HOOKS, Edit, EditGraph, HookPoint, Probe, Site, TopHeads
    from .model import (
        LMM,
        CompressedContext,
        Context,
        Encoding,
        Job,
        Readout,
        RunStore,
        Session,
        Video,
        mark,
        merge_shards,
        readout,
        run_dataset,
        run_experiment,
    )
    from .probes import probe
    from .remote import Server
    from .reproduction import reproduce
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
    from .viewer import view

__all__ = (  # noqa: RUF022 (in the order of the pages of the documentation)
    # a model, its prompts and its runs
    "LMM",
    "Encoding",
    "TokenLayout",
    "TopHeads",
    "ImageSpan",
    "View",
    "Run",
    "Recorded",
    "Video",
    "CompressedContext",
    "Context",
    "Readout",
    "readout",
    "RunStore",
    "run_dataset",
    "run_experiment",
    "merge_shards",
    "Server",
    "Session",
    "Job",
    # edits, probes and the graph that joins them
    "Ablate",
    "ACT",
    "AddScores",
    "Contrast",
    "CopyHead",
    "Directions",
    "DropKeys",
    "Fn",
    "HideKeys",
    "Knockout",
    "MoveNeurons",
    "Patch",
    "Redistribute",
    "ScaleHeads",
    "ScaleKeys",
    "ScalePattern",
    "ScaleScores",
    "SetDims",
    "SoftmaxRegister",
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
    "mark",
    "rank_heads",
    # rooms with more in them
    "edits",
    "probes",
    "experiments",
    "evaluation",
    "evaluate",
    "reproduction",
    "reproduce",
    "metrics",
    "plot",
    "viewer",
    "view",
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

_HOMES = (
    "errors", "tokens", "graph", "results", "probes", "edits", "sinks", "remote", "model",
    "evaluation", "reproduction", "viewer",
)  # fmt: skip
"""Where the names are from: each of these imports those before it, and none after it."""

if not TYPE_CHECKING:  # a type checker reads the imports above, and complains of other names

    def __getattr__(name: str) -> object:
        """Load a name when it is first asked for: `import vsink_interp` alone loads no torch."""
        if name == "__version__":
            from importlib.metadata import version

            return version("vsink-interp")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if find_spec(f".{name}", __name__):
            return import_module(f".{name}", __name__)
        homes = (import_module(f".{home}", __name__) for home in _HOMES)
        found = next(getattr(home, name) for home in homes if hasattr(home, name))
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    """What a user should touch; rooms that are only loaded do not show."""
    return sorted(__all__)
