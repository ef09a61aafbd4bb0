"""Directions of the residual stream, learned as a difference of means over cases."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import LayoutError, ResultError
from ..graph import EditGraph, Layers, find_hook, resolve_layers
from ..results import Run
from ..storage import entry, reading, refuse_format, write_bytes
from .source import taken
from .steer import Steer

_FIELDS = {"layers": list, "rows": str, "cases": list, "model": str}


@final
@dataclass(frozen=True, eq=False, repr=False)
class Directions:
    """One direction per layer, from which `steer` makes an edit, and a file keeps.

    Difference of means: Marks and Tegmark (2023), arXiv 2310.06824; as an edit of activations,
    Rimsky et al. (2024), arXiv 2312.06681.

    ```python
    stream = vi.probes.Activation("hook_resid_post", layers=[3, 4])
    with_it, without = (lmm.run(one, "What is this?", stream) for one in (image, other))
    found = vi.Directions.difference(with_it, without)
    lmm.generate(other, "What is this?", found.steer(0.5, layers=4, norm="keep")).text
    found.save("direction.safetensors")
    vi.Directions.load("direction.safetensors").layers
    ```

    **Attributes:**

    - `vectors`: the mean over cases with something, minus that over cases without, in fp32.
    - `layers`: the layers, counted from 0; each vector is of the stream leaving its layer.
    - `rows`: the group of tokens whose rows were averaged.
    - `cases`: how many cases there were of each kind.
    - `model`: the name of the model.
    """

    vectors: Float[Tensor, "layer d_model"]
    layers: tuple[int, ...]
    rows: str
    cases: tuple[int, int]
    model: str

    def __repr__(self) -> str:
        width, norms = self.vectors.shape[1], self.vectors.norm(dim=-1).tolist()
        each = ", ".join(f"{at}: {norm:.3g}" for at, norm in zip(self.layers, norms, strict=True))
        return (
            f"Directions(d_model={width}, norm by layer={{{each}}}, rows={self.rows!r}, "
            f"cases={self.cases}, model={self.model!r})"
        )

    @classmethod
    def difference(
        cls, with_it: Run | Iterable[Run], without: Run | Iterable[Run], *, rows: str = "last"
    ) -> "Directions":
        """The mean over some cases minus the mean over others.

        Every sample of every run is a case: its rows are averaged first. Runs may come from a
        generator, and are held one at a time.

        **Arguments:**

        - `with_it`, `without`: runs that recorded `probes.Activation("hook_resid_post")`.
        - `rows`: the group of tokens that are averaged; `last` is the row that predicts the first
            generated token.

        **Raises:** `ResultError` for a run without that record, or with other layers or of another
        model than the first; `LayoutError` for a case that has none of these tokens.
        """
        means, cases, models = [], [], []
        for runs in (with_it, without):
            mean, count, model = _mean((runs,) if isinstance(runs, Run) else runs, rows)
            means.append(mean)
            cases.append(count)
            models.append(model)
        if means[0].keys() != means[1].keys():
            raise ResultError(
                f"the runs recorded other layers: {tuple(means[0])} and {tuple(means[1])}"
            )
        if models[0] != models[1]:
            raise ResultError(f"the runs are of two models: {models[0]} and {models[1]}")
        vectors = torch.stack([means[0][at] - means[1][at] for at in means[0]]).float()
        return cls(vectors, tuple(means[0]), rows, (cases[0], cases[1]), models[0])

    def steer(
        self,
        scale: float = 1.0,
        *,
        layers: Layers | None = None,
        rows: str = "query generated",
        norm: str | None = None,
    ) -> EditGraph:
        """The edits that add the direction of each layer there, times `scale`.

        **Arguments:**

        - `layers`: some of the layers; all of them by default.
        - `rows`, `norm`: as in `Steer`.

        **Raises:** `ResultError` for a layer without a direction.
        """
        wanted = self.layers if layers is None else resolve_layers(layers, max(self.layers) + 1)
        if lacking := [at for at in wanted if at not in self.layers]:
            raise ResultError(f"there is no direction of layers {lacking}; there are {self.layers}")
        known = dict(zip(self.layers, self.vectors, strict=True))
        return EditGraph(
            *(Steer(known[at], at, scale=scale, rows=rows, norm=norm) for at in wanted)
        )

    def save(self, path: str | Path) -> None:
        """Write them into one safetensors file, whole or not at all.

        **Raises:** `ResultError` if it cannot be written.
        """
        about = {name: getattr(self, name) for name in _FIELDS} | {"format": 1}
        tensors = {"vectors": self.vectors.contiguous()}
        write_bytes(path, save(tensors, metadata={"directions": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path) -> "Directions":
        """Read a file that `save` wrote.

        **Raises:** `ResultError` naming the file and what is wrong with it.
        """
        with reading(path), safe_open(str(path), "pt") as file:
            about: Any = json.loads((file.metadata() or {}).get("directions", "null"))
            refuse_format(about, 1, path)
            layers, rows, cases, model = (entry(about, n, k, path) for n, k in _FIELDS.items())
            vectors = file.get_tensor("vectors")
            if vectors.ndim != 2 or len(vectors) != len(layers) or not vectors.isfinite().all():
                raise ResultError(f"{path}: {tuple(vectors.shape)} numbers of layers {layers}")
            return cls(vectors.float(), tuple(map(int, layers)), rows, (cases[0], cases[1]), model)


def _mean(runs: Iterable[Run], rows: str) -> tuple[dict[int, Tensor], int, str]:
    """By layer the mean over all cases, how many there are, and the model."""
    point, sums, count, model = find_hook(Steer.hook), dict[int, Tensor](), 0, ""
    for run in runs:
        source = taken(point, run)
        chosen = run.layout.mask(rows)[:, list(source.queries)]
        if (empty := ~chosen.any(-1)).any():
            raise LayoutError(
                f"case {int(empty.nonzero()[0])} of a run has no recorded row of {rows!r}"
            )
        weight = chosen.double() / chosen.sum(-1, keepdim=True)
        found = {
            at: (weight[..., None] * value.double()).sum((0, 1))
            for at, value in source.values.items()
            if at is not None
        }
        if sums and found.keys() != sums.keys():
            raise ResultError(f"runs recorded other layers: {tuple(sums)} and {tuple(found)}")
        if count and run.model != model:
            raise ResultError(f"the runs are of two models: {model} and {run.model}")
        sums = {at: each + sums[at] if sums else each for at, each in found.items()}
        count, model = count + len(chosen), run.model
    if not sums:
        raise ResultError("a mean over cases needs at least one run")
    return {at: each / count for at, each in sums.items()}, count, model
