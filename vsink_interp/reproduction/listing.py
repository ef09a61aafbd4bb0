"""The list of all reproductions, and `reproduce`, which measures one."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ..errors import CapabilityError, InputError, NotationError, unknown
from ..model import LMM, Tick
from ..storage import Log, Part, make_folder
from .both import chosen_tokens, crossings, localising_heads
from .entry import Entry, Setup
from .measurements import LEFT_OUT, Measurements
from .over_cases import about as dependence
from .paper_a import (
    ablations,
    benchmarks,
    fixed_places,
    heads,
    latency,
    maps,
    segmentation,
    sink_attention,
    sink_counts,
    sink_masking,
    spectra,
)
from .paper_b import attention_by_type, compressed, judged, knockouts, objects, selection

ENTRIES: Final = (
    maps.FIG1,
    spectra.FIG2,
    sink_attention.FIG3A,
    sink_masking.FIG3B,
    sink_masking.FIG3B_POPE,
    sink_attention.FIG3C,
    maps.FIG3D,
    fixed_places.PLACES,
    heads.FIG4,
    spectra.FIG7,
    sink_counts.FIG8A,
    sink_counts.FIG8B,
    benchmarks.TABLE1,
    benchmarks.TABLE2,
    benchmarks.TABLE3,
    ablations.TABLE4,
    ablations.TABLE5,
    segmentation.TABLE6,
    ablations.SOURCE,
    ablations.SWEEPS,
    benchmarks.VCD,
    latency.LATENCY,
    benchmarks.LAST_LAYER,
    attention_by_type.FIG1,
    knockouts.FIG2E,
    knockouts.FIG2F,
    knockouts.UP_TO,
    knockouts.WINDOW,
    judged.FIG3,
    attention_by_type.FIG4,
    compressed.FIG5,
    objects.FIG6,
    objects.FIG7,
    compressed.TABLE1,
    selection.SELECTION,
    chosen_tokens.TOP_K,
    crossings.FIG2F,
    crossings.KNOCKOUT,
    crossings.SINKS,
    localising_heads.HEADS,
)
"""Every figure, table and ablation there is, paper by paper."""
NOT_ESTABLISHED: Final = (
    "A: table 7, figures 9 to 15 (what they sweep is in A.sweeps, without published numbers)",
    "B: table 2, the numbers of the appendix on LLaVA-1.5, the values of figure 5",
)
"""What the papers hold and could not be read."""


def find(name: str) -> Entry:
    """The reproduction of that name.

    ```python
    entry = vi.reproduction.find("A.fig3b")
    entry.claim, entry.published               # entry.outcome(vi.reproduce(...)) judges it
    ```

    **Raises:** `NotationError` listing all of them.
    """
    known = {entry.name: entry for entry in ENTRIES}
    if name not in known:
        raise NotationError(unknown("reproduction", name, known))
    return known[name]


def reproduce(
    name: str,
    lmm: LMM,
    data: str | Path | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    quick: bool = False,
    log: Log = None,
    tick: Tick | None = None,
) -> Measurements:
    """Measure a published figure or table anew.

    ```py
    found = vi.reproduce("A.fig3b", lmm, "coco", limit=50, log="fig3b")
    print(found.table(), vi.reproduction.find("A.fig3b").outcome(found))
    found.plot()
    ```

    **Arguments:**

    - `name`: one of `vsink reproduce list`, as in `"A.fig3b"`.
    - `data`: a folder of images, of COCO, or of benchmarks; toy scenes by default.
    - `limit`: how many cases; the reproduction's own number by default.
    - `seed`: of what is drawn, and the first toy scene; on your own data for those that draw.
    - `quick`: a handful of cases, to see that it works.
    - `log`: a folder that takes the rows as they come; a stopped reproduction goes on from it.
    - `tick`: called in the place of a progress bar.

    **Raises:** `NotationError` for an unknown name; `InputError` if the folder does not hold what
    it takes, or for a seed where nothing is drawn; `ResultError` if `log` belongs to another
    measurement; `CapabilityError` for what cannot run on a server, before anything is sent, and for
    results larger than a server's `allow_large` lets through.
    """
    entry = find(name)
    server = lmm.backend.server(None)
    if server and entry.here:
        raise CapabilityError(
            f"{name} is not measured on a server: {entry.here}. Nothing was sent; open the model "
            "with its weights, without remote="
        )
    if entry.alone and isinstance(log, Part):
        raise CapabilityError(
            f"{name} measures {entry.alone}, which other processes would change: measure it in "
            "one, without on= and shard="
        )
    folder = None if data is None else Path(data)
    if seed and folder is not None and not entry.draws:
        raise InputError(
            f"seed={seed}: {name} draws nothing on data of your own, so a seed changes nothing; "
            "leave it out"
        )
    if isinstance(log, str | Path):
        make_folder(log)
    setup = Setup(folder, limit=limit, seed=seed, quick=quick, log=log, tick=tick)
    found = entry.measure(name, lmm, setup)
    about = {**_provenance(entry, lmm, setup), "data digest": found.data}
    if missing := [one for one in (entry.left_out if server else "", found.left_out) if one]:
        about[LEFT_OUT] = "; ".join(missing)
    return Measurements(name, found.rows, about, found.images)


def _provenance(entry: Entry, lmm: LMM, setup: Setup) -> Mapping[str, Any]:
    settings = {"data": str(setup.data or "toy scenes"), "limit": setup.limit}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**dependence(entry.name, lmm, setup), **settings, "title": entry.title, "measured": now}
