"""What objects show as the last line of a notebook cell: small pieces of HTML that load nothing."""

from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import VsinkError
from ..tokens import SEGMENTS
from .heads import heads
from .page import drawing, photo, table
from .style import COLOURS, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

    from ..experiments.result import Result
    from ..model import Encoding
    from ..tokens import TokenLayout

MOST = 4
"""The most samples of a batch that are shown."""


def layout_html(layout: "TokenLayout") -> str:
    """The segments of each sample as coloured bars, as wide as they have tokens."""
    return "".join(_bar(layout, sample) for sample in range(min(layout.batch, MOST)))


def _bar(layout: "TokenLayout", sample: int) -> str:
    codes = layout.segments[sample].tolist()
    counts = [(name, codes.count(code)) for code, name in enumerate(SEGMENTS, 1)]
    total = sum(count for _, count in counts)
    pieces = "".join(
        f'<span title="{name}: {count} tokens" style="flex:{max(count, total // 25)};'
        f'background:{COLOURS[name]};color:#fff;padding:1px 3px;overflow:hidden">{name} {count}'
        "</span>"
        for name, count in counts
        if count
    )
    line = escape(str(layout).splitlines()[sample])
    return f'<div style="display:flex;font-size:11px">{pieces}</div><code>{line}</code>'


def encoding_html(encoding: "Encoding") -> str:
    """The images under their grids of image tokens, the prompt and the layout."""
    shown = []
    for images, spans, prompt in list(
        zip(encoding.images, encoding.layout.images, encoding.prompts, strict=True)
    )[:MOST]:
        shown += [
            drawing(_grid(image, span), "image") for image, span in zip(images, spans, strict=True)
        ]
        shown.append(f"<pre>{escape(prompt)}</pre>")
    return "".join(shown) + layout_html(encoding.layout)


def _grid(image: Any, span: Any) -> "matplotlib.figure.Figure":
    """An image with the borders of its image tokens."""
    figure = new_figure(2.6, 2.6 * image.height / image.width)
    axes = figure.subplots()
    rows, columns = span.grid
    left, upper, right, lower = span.box or (0, 0, image.width, image.height)
    axes.imshow(image)
    style: dict[str, Any] = {"color": "w", "linewidth": 0.5, "alpha": 0.8}
    axes.vlines(
        [left + (right - left) * i / columns for i in range(columns + 1)], upper, lower, **style
    )
    axes.hlines([upper + (lower - upper) * i / rows for i in range(rows + 1)], left, right, **style)
    axes.set_axis_off()
    return figure


def lmm_html(lmm: Any) -> str:
    """Sizes, sink dimensions as far as they are known, and the hook points that are offered."""
    sinks = lmm.sinks_or_none
    found = "not looked for yet: <code>lmm.sinks</code> finds them"
    known = found if sinks is None else escape(f"{sinks.dims}, tau {sinks.tau:.3g}; {sinks.source}")
    parameters = sum(weight.numel() for weight in lmm.hf_model.parameters())
    rows = [
        ("family", lmm.hooked.family.name),
        ("layers, heads, d_model", f"{lmm.n_layers}, {lmm.n_heads}, {lmm.d_model}"),
        ("parameters", f"{parameters:,}"),
        ("where", f"{lmm.device}, {str(lmm.dtype).split('.')[-1]}"),
    ]
    hooks = ", ".join(name.replace("blocks.{layer}.", "") for name in lmm.hooks)
    return (
        f"<b>{escape(lmm.name)}</b>{table(('', ''), rows)}<div>sinks: {known}</div>"
        f"<details><summary>{len(lmm.hooks)} hook points</summary>{escape(hooks)}</details>"
    )


def result_html(result: "Result") -> str:
    """The figure of a result, and its one line."""
    line = f"<code>{escape(repr(result))}</code>"
    if not result.figure:
        return line
    try:
        drawn = result.plot()
    except VsinkError as error:
        return f"{line}<div>{escape(str(error))}</div>"
    html = getattr(drawn, "html", None)
    return (html if html is not None else drawing(drawn, type(result).__name__)) + line


def scene_html(scene: Any) -> str:
    """A scene and what is true of it."""
    return photo(scene.image, "scene") + f"<div>{escape(scene.caption)}</div>"


def ranking_html(ranking: Any) -> str:
    """Heads by their non-sink ratio."""
    return (
        drawing(heads(ranking), "heads by non-sink ratio") + f"<code>{escape(repr(ranking))}</code>"
    )
