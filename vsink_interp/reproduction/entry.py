"""What a reproduction is: a figure or table of a paper, how it is measured, what was published."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias, final, runtime_checkable

from PIL import Image

from ..model import LMM, Tick
from ..storage import Log
from .measurements import Measurements, Row

Figure: TypeAlias = Literal["bars", "curves", "grid", "maps", "scatter", "spectrum", "sorted"]
"""How the measurements are drawn."""


VERDICTS: Final = {True: "holds", False: "does not hold", None: "cannot be told"}
PAPERS: Final = {
    "A": "Kang et al., *See What You Are Told* (ICLR 2025, arXiv 2503.03321)",
    "B": "Kaduri et al., *What's in the Image?* (CVPR 2025, arXiv 2411.17491)",
    "AB": "Where the two meet: measured in neither",
}
"""By the letter in an entry's name; titles between asterisks."""


@final
@dataclass(frozen=True)
class Published:
    """A number of a paper.

    **Attributes:**

    - `what`: what it is of, as in `"LLaVA-1.5-7B, sinks masked, POPE F1"`.
    - `value`: as it is printed, or read off a figure.
    - `source`: where it was read, and how surely.
    """

    what: str
    value: str
    source: str


@final
@dataclass(frozen=True)
class Setup:
    """What a reproduction is measured on.

    **Attributes:**

    - `data`: a folder of the user's own images or benchmarks; toy scenes by default.
    - `limit`: how many cases; each reproduction's own number by default.
    - `seed`: of whatever is drawn, and the first toy scene.
    - `quick`: a handful of cases, to see that all of it works.
    - `log`: a folder that takes the rows as they come; a stopped reproduction goes on from it.
    - `tick`: told how many steps are done, and how many there are.
    """

    data: Path | None = None
    _: KW_ONLY
    limit: int | None = None
    seed: int = 0
    quick: bool = False
    log: Log = None
    tick: Tick | None = None

    def count(self, quick: int, full: int) -> int:
        """The number of cases: the limit, or the reproduction's own for a quick or a full run."""
        return (quick if self.quick else full) if self.limit is None else self.limit


@final
@dataclass(frozen=True)
class Measured:
    """What measuring an entry gives.

    **Attributes:**

    - `rows`: one mapping a measurement.
    - `images`: the images of some cases, for figures.
    - `data`: a digest of the cases: images, prompts, truths.
    - `left_out`: which cases have no rows, and why; empty where all have.
    """

    rows: tuple[Row, ...]
    images: Mapping[int, Image.Image]
    data: str
    left_out: str = ""


@runtime_checkable
class Measure(Protocol):
    """Measures an entry; `OverCases` and `OverTasks` are the two ways there are."""

    def __call__(self, name: str, lmm: LMM, setup: Setup) -> Measured:
        """The rows of an entry of that name, on a model and the cases of a setup."""
        ...


@final
@dataclass(frozen=True)
class Outcome:
    """What measurements say about the claim of a paper.

    **Attributes:**

    - `holds`: True or False; None if these cases or this model cannot tell.
    - `because`: the numbers that say so.
    """

    holds: bool | None
    because: str

    def __str__(self) -> str:
        return f"{VERDICTS[self.holds]}: {self.because}"


@final
@dataclass(frozen=True)
class Entry:
    """A figure, table or ablation of a paper.

    **Attributes:**

    - `name`: the paper's letter and the figure, as in `"A.fig3b"`.
    - `title`: what it shows.
    - `claim`: what the paper concludes from it, as a statement that can be true of a model.
    - `measure`: how its rows are measured.
    - `outcome`: what rows say about the claim.
    - `figure`: how it is drawn; `axes` names what lies on x, what tells lines or bars apart, and
        what panels.
    - `drawn`: what is drawn of the rows, where these are not drawn as they are.
    - `draws`: whether something is drawn beside toy scenes, which `--seed` then draws anew.
    - `here`: why it cannot be measured on a server; empty where it can.
    - `left_out`: what its rows lack on a server, and why; empty where they lack nothing.
    - `alone`: what of it other processes would change; empty where its steps can be shared out.
    - `unit`: of the values.
    - `published`: the paper's numbers.
    - `note`: where this departs from the paper, and what was not established.
    """

    name: str
    title: str
    claim: str
    _: KW_ONLY
    measure: Measure
    outcome: Callable[[Measurements], Outcome]
    figure: Figure
    drawn: Callable[[Measurements], Measurements] | None = None
    axes: Sequence[str] = ()
    draws: bool = False
    here: str = ""
    left_out: str = ""
    alone: str = ""
    unit: str
    published: tuple[Published, ...] = ()
    note: str = ""

    @property
    def paper(self) -> str:
        """The letter of the paper; `"AB"` is where both meet."""
        return self.name.split(".")[0]
