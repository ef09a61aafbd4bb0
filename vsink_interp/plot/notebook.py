"""What objects show as the last line of a notebook cell: small pieces of HTML that load nothing."""

from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import VsinkError
from ..results.result import Result
from ..tokens import NAMES
from .page import drawing, photo, table
from .style import COLOURS, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure

    from ..model import Encoding
    from ..results import Recorded, Run
    from ..results.result import OneLine
    from ..tokens import TokenLayout

HISTORY = "#56B4E9"
"""The colour of earlier turns."""
MOST = 4
"""The most samples of a batch that are shown."""


def layout_html(layout: "TokenLayout") -> str:
    """The segments of each sample as coloured bars, as wide as they have tokens."""
    return "".join(_bar(layout, sample) for sample in range(min(layout.batch, MOST)))


def _bar(layout: "TokenLayout", sample: int) -> str:
    codes = layout.segments[sample].tolist()
    counts = [(name, codes.count(code)) for code, name in enumerate(NAMES) if code]
    total = sum(count for _, count in counts)
    pieces = "".join(
        f'<span title="{name}: {count} tokens" style="flex:{max(count, total // 25)};'
        f"background:{COLOURS.get(name, HISTORY)};color:#fff;padding:1px 3px;overflow:hidden"
        f'">{name} {count}</span>'
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


def run_html(run: "Run") -> str:
    """Each answer, its tokens coloured by their attention to the image where it was recorded."""
    shown = []
    texts = [run.text] if isinstance(run.text, str) else run.text
    shares = _image_shares(run)
    for sample, text in enumerate(texts[:MOST]):
        answer = escape(text) if shares is None else _coloured(run, sample, shares[sample])
        shown.append(f"<p>{answer}</p>")
    names = ", ".join(name.split("(")[0] for name in run.records) or "none"
    return "".join(shown) + layout_html(run.layout) + f"<div>records: {escape(names)}</div>"


def _image_shares(run: "Run") -> list[list[float]] | None:
    """By sample the attention to the image of each answer row, mean over heads and layers."""
    for name, record in run.records.items():
        if {*run.answer_rows} - {*record.labels("query")} if "query" in record.axes else True:
            continue
        rows = record.taken("query", run.answer_rows)
        if name.startswith("SegmentMass(") and "image" in record.labels("segment"):
            return rows.at(segment="image").mean("layer", "head").values.nan_to_num().tolist()
        if name.startswith("AttentionMaps("):
            return rows.sum("patch").mean("layer").values.nan_to_num().tolist()
    return None


def _coloured(run: "Run", sample: int, shares: list[float]) -> str:
    words = run.words[sample][run.layout.answer_start :]
    return (
        " ".join(
            f'<span title="{share:.3f}" style="background:rgba(0,114,178,{share:.2f})">'
            f"{escape(word.strip())}</span>"
            for word, share in zip(words, shares, strict=False)
        )
        + "<br><small>the bluer, the more attention its row gives the image</small>"
    )


def record_html(record: "Recorded") -> str:
    """A heat map of a record with two axes longer than 1, else a table of its first entries."""
    line = f"<code>{escape(repr(record))}</code>"
    long = [axis for axis, size in zip(record.axes, record.values.shape, strict=True) if size > 1]
    if len(long) == 2:
        return drawing(_heat(record, long), repr(record)) + line
    if len(long) < 2:
        labels = record.labels(long[0]) if long else ("value",)
        rows = list(zip(map(str, labels), record.masked.flatten().tolist(), strict=True))
        more = f"<div>and {len(rows) - 20} more</div>" if len(rows) > 20 else ""
        return table((long[0] if long else "", "value"), rows[:20]) + more + line
    kept = " and ".join(f"<code>{axis}</code>" for axis in long)
    return f"{line}<div>axes {kept}: take <code>.mean</code> over some, or <code>.at</code></div>"


def _heat(record: "Recorded", axes: list[str]) -> "matplotlib.figure.Figure":
    figure = new_figure(4.5, 3.0)
    panel = figure.subplots()
    sizes = [record.values.shape[record.axis(axis)] for axis in axes]
    shown = panel.imshow(record.masked.reshape(sizes).numpy(), aspect="auto", cmap="viridis")
    tidy(panel, axes[1], axes[0])
    for axis, size, ticks in zip(axes, sizes, (panel.set_yticks, panel.set_xticks), strict=True):
        step = max(1, -(-size // 8))
        ticks(range(0, size, step), [str(label) for label in record.labels(axis)[::step]])
    figure.colorbar(shown, ax=panel)
    return figure


def sink_tokens_html(found: Any) -> str:
    """Tokens with their boxes and sink values."""
    rows = [
        (one.token, one.image, "-" if one.box is None else str(tuple(map(round, one.box))), one.phi)
        for one in found
    ]
    return f"<code>{escape(repr(found))}</code>" + table(("token", "image", "box", "phi"), rows)


def result_html(result: "OneLine") -> str:
    """The figure of a result, its one line, and folded away its table and where it came from."""
    line = f"<code>{escape(repr(result))}</code>"
    more = _folded(result) if isinstance(result, Result) else ""
    if not result.figure:
        return line + more
    try:
        drawn = result.plot()
    except VsinkError as error:
        return f"{line}<div>{escape(str(error))}</div>{more}"
    html = getattr(drawn, "html", None)
    shown = html if html is not None else drawing(drawn, type(result).__name__)
    return shown + line + more


def _folded(result: Result) -> str:
    parts = {"table": result.table()}
    if result.provenance:
        told = (f"{name}: {value}" for name, value in result.provenance.items())
        parts["provenance"] = "\n".join(told)
    return "".join(
        f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>"
        for name, text in parts.items()
    )


def scene_html(scene: Any) -> str:
    """A scene and what is true of it."""
    return photo(scene.image, "scene") + f"<div>{escape(scene.caption)}</div>"
