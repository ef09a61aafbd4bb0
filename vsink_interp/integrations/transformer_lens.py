"""A run as a TransformerLens `ActivationCache`, and a run that fills one.

The other way needs nothing from here: hook functions written for TransformerLens run as
`vi.Fn(hook, function)`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import CapabilityError, ResultError
from ..graph import EditGraph, Graphlike, as_graph, find_hook
from ..model import LMM, readout
from ..model.activation_cache import NamesFilter, cache_graph as chosen_graph, entries
from ..probes import Activation
from ..results import Run
from .lens_model import LensModel

if TYPE_CHECKING:
    from transformer_lens import ActivationCache  # ty: ignore[import-not-found] (optional)

DEFAULT_NAMES = (
    "hook_embed hook_resid_pre hook_resid_mid hook_attn_out hook_mlp_out hook_resid_post "
    "attn.hook_z attn.hook_pattern mlp.hook_post unembed.hook_out"
).split()
"""What a cache holds unless told otherwise: enough for each of its methods."""


def cache_graph(lmm: LMM, names_filter: NamesFilter = None) -> EditGraph:
    """The probes that fill a cache.

    **Arguments:**

    - `names_filter`: as `run_with_cache` of TransformerLens takes it, over `blocks.3.hook_mlp_out`
        and the other names of the hook table. By default what every method of the cache needs, as
        far as the model offers it; a method that needs more raises `KeyError` with the name.

    **Raises:** `NotationError` for an unknown name, `ResultError` if no name passes the filter.
    """
    if names_filter is None:
        offered = [name for name in DEFAULT_NAMES if not lmm.hooked.refusal(find_hook(name))]
        return EditGraph(*(_wherever(lmm, name) for name in offered))
    return chosen_graph(lmm, names_filter)


def _wherever(lmm: LMM, name: str) -> Activation:
    """A probe of a hook point in every layer that offers it."""
    point = find_hook(name)
    layers = lmm.hooked.offering(point) if point.stack else ()
    return Activation(name, layers if 0 < len(layers) < lmm.n_layers else ":")


def run_with_cache(
    lmm: LMM,
    image: Any,
    prompt: Any = None,
    graph: Graphlike = None,
    *,
    names_filter: NamesFilter = None,
) -> tuple[Tensor, "ActivationCache"]:
    """One forward pass under a graph: the logits, and the activations as TransformerLens has them.

    **Arguments:**

    - `image`, `prompt`, `graph`: as `lmm.run` takes them. Edits act before the cache is filled.
    - `names_filter`: what to keep; see `cache_graph`.

    **Raises:** as `lmm.run`; `CapabilityError` if transformer-lens is not installed.
    """
    _cache_class()
    run = lmm.run(image, prompt, as_graph(graph) | cache_graph(lmm, names_filter))
    return run.logits, to_transformer_lens(run, lmm)


def to_transformer_lens(run: Run, lmm: LMM) -> "ActivationCache":
    """A run's activations as a real `transformer_lens.ActivationCache`.

    Entries come from the probes `Activation`, `Resid`, `Pattern` and `Logits` of the run; other
    probes are no activations and stay in the run. The cache indexes (`cache["pattern", 3]`), stacks
    (`stack_activation`, `accumulated_resid`, `decompose_resid`, `stack_head_results`) and reads
    logits (`logit_attrs`, `logit_lens`). Behind it stands a view of the model with the final norm's
    gain folded into the unembedding, as TransformerLens folds it in compatibility mode.

    `hook_embed` becomes what enters layer 0, image tokens included: TransformerLens has the
    placeholder's embedding there, with which `decompose_resid` does not sum to the residual stream
    at image tokens. The scales of norms are added where the residual stream is known.

    **Arguments:**

    - `lmm`: the model of the run; a run holds no weights.

    **Raises:** `CapabilityError` if transformer-lens is not installed; `ResultError` if the run is
    of another model, has no activation, or holds only some rows of one.
    """
    cache_class = _cache_class()
    if run.model != lmm.name:
        raise ResultError(f"this run is of {run.model!r}, not of {lmm.name!r}")
    found = dict(entries(run))
    if not found:
        raise ResultError(
            "this run holds no activation; run it with integrations.cache_graph(lmm), or with "
            "probes.Activation(hook)"
        )
    if "hook_embed" in found and "blocks.0.hook_resid_pre" in found:
        found["hook_embed"] = found["blocks.0.hook_resid_pre"]
    model = LensModel(lmm, readout(lmm))
    return cache_class(found | dict(_scales(found, model)), model)


def _cache_class() -> Any:
    try:
        from transformer_lens import ActivationCache  # ty: ignore[import-not-found] (optional)
    except ImportError as error:
        raise CapabilityError(
            "this needs transformer-lens: pip install 'vsink-interp[tl]' (43 packages; it may run "
            "pip by itself when it opens a multimodal model, see docs/gotchas.md)"
        ) from error
    return ActivationCache


def _scales(entries: dict[str, Tensor], model: LensModel) -> Iterator[tuple[str, Tensor]]:
    """What each norm divides by, under TransformerLens's names."""
    last = model.cfg.n_layers - 1
    norms = {f"blocks.{last}.hook_resid_post": "ln_final"}
    for layer in range(model.cfg.n_layers):
        norms[f"blocks.{layer}.hook_resid_pre"] = f"blocks.{layer}.ln1"
        norms[f"blocks.{layer}.hook_resid_mid"] = f"blocks.{layer}.ln2"
    for hook, norm in norms.items():
        if hook in entries:
            yield f"{norm}.hook_scale", model.readout.scale(entries[hook])
