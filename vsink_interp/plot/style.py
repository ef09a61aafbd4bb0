"""The style of all figures: one colour per kind of token, and figures without global state."""

from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

COLOURS: Final = {
    "bos": "#595959",
    "system": "#CC79A7",
    "image": "#0072B2",
    "sink": "#D55E00",
    "query": "#E69F00",
    "generated": "#009E73",
}
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

NAMES: Final = {
    "bos": "BOS",
    "sink & image": "visual sinks",
    "image & ~sink": "other image tokens",
    "prompt & ~image": "rest of the prompt",
}
GROUP_COLOURS: Final = {
    **COLOURS,
    "sink & image": COLOURS["sink"],
    "image & ~sink": COLOURS["image"],
    "prompt & ~image": COLOURS["query"],
}
MUTED: Final = "#8A8A8A"
DPI: Final = 160


@cache
def _drawing() -> Any:
    from io import BytesIO

    from matplotlib.figure import Figure

    class Drawing(Figure):
        """A figure that notebooks show without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = BytesIO()
            self.savefig(buffer, format="png", dpi=DPI)
            return buffer.getvalue()

    return Drawing


def new_figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty figure of a size in inches, not registered with pyplot; notebooks display it."""
    return _drawing()(figsize=(width, height), layout="constrained")


def bootstrap(cases: int, drawn: str = "whiskers") -> str:
    """What is drawn about means over so many cases; nothing for one case."""
    return f"{drawn}: 95 % bootstrap over {cases} cases" if cases > 1 else ""


def tidy(axes: "matplotlib.axes.Axes", x: str, y: str, title: str = "") -> None:
    """Label the axes, with units, and remove needless spines."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)


def layer_ticks(axes: "matplotlib.axes.Axes", n_layers: int) -> None:
    """Ticks at whole layers, at most a dozen."""
    axes.set_xticks(range(0, n_layers, max(1, -(-n_layers // 12))))


def png(figure: "matplotlib.figure.Figure") -> bytes:
    """A figure as a PNG file.

    ```python
    shown = vi.plot.spectrum(ex.spectrum(lmm, image, prompt))
    vi.plot.png(shown)[:4]                                    # bytes, for a file or a web page
    ```
    """
    return figure._repr_png_()  # ty: ignore[missing-attribute]
