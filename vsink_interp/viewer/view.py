"""`Viewer`: attention over images to click through, in a notebook or as one offline page."""

import json
from collections.abc import Sequence
from functools import cached_property
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, final

from ..errors import CapabilityError, InputError
from ..graph import EditGraph, Graphlike, Layers, Probe, as_graph
from ..model import LMM, Encoding
from ..model.images import as_images
from ..probes import AttentionMaps, LogitLens, Pattern, SegmentMass, SinkValue
from ..results import Run
from ..storage import write_text
from .payload import payload

HEIGHT = 760
"""The height of the viewer in a notebook, in pixels."""


@final
class Viewer:
    """Attention of every word over the images, layer by layer, to look at.

    Shows itself in a notebook; `save` writes one HTML file that opens from disk and asks for
    nothing from the network.

    **Arguments:**

    - `data`: what `payload` makes.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def __repr__(self) -> str:
        arms = ", ".join(arm["name"] for arm in self.data["arms"])
        sizes = f"{len(self.data['layers'])} layers, {len(self.data['rows'])} words"
        return f"Viewer({self.data['title']!r}: {sizes}, {len(self.data['panels'])} panels, {arms})"

    @cached_property
    def html(self) -> str:
        """The whole page."""
        title = escape(self.data["title"])
        return Template(_source("page.html")).substitute(title=title, body=self.fragment("view"))

    def fragment(self, name: str, *, theme: str = "") -> str:
        """The viewer as a part of a page of yours, which may have styles and scripts in it.

        **Arguments:**

        - `name`: an id that the page has for nothing else.
        - `theme`: `"light"` or `"dark"`; as the reader's system has it by default.
        """
        mounted = f'document.getElementById("{name}")'
        data = f'document.getElementById("{name}-data")'
        return (
            f"<style>{_source('viewer.css')}</style>\n"
            f'<div id="{name}" data-theme="{theme}"></div>\n'
            f'<script id="{name}-data" type="application/json">{self._json}</script>\n'
            f'<script type="module">\n{_source("viewer.js")}\n'
            f"mount({mounted}, JSON.parse({data}.textContent));\n</script>"
        )

    @property
    def _json(self) -> str:
        """JSON that no text of the user's can break out of."""
        text = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        for letter in "<>&\u2028\u2029":
            text = text.replace(letter, f"\\u{ord(letter):04x}")
        return text

    def save(self, path: str | Path) -> None:
        """Write the page as one HTML file.

        **Raises:** `ResultError` if it cannot be written.
        """
        write_text(path, self.html)

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts allow-downloads" width="100%" height="{HEIGHT}" '
            f'style="border:0" srcdoc="{escape(self.html)}"></iframe>'
        )

    def widget(self) -> Any:
        """The same as a Jupyter widget; needs the extra `viewer` (anywidget).

        **Raises:** `CapabilityError` without it.
        """
        try:
            import anywidget
            import traitlets
        except ImportError as error:
            raise CapabilityError(
                "the widget needs anywidget: pip install 'vsink_interp[viewer]'. Without it, the "
                "view shows itself as the last line of a cell, and view.save(path) writes a page"
            ) from error

        class Widget(anywidget.AnyWidget):
            _esm = _source("viewer.js")
            _css = _source("viewer.css")
            payload = traitlets.Unicode("{}").tag(sync=True)

        return Widget(payload=json.dumps(self.data))


def _source(name: str) -> str:
    """A file of this room."""
    return files(__name__.rpartition(".")[0]).joinpath(name).read_text(encoding="utf-8")


def view(
    run: Run,
    image: Any = None,
    *,
    after: Run | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Viewer:
    """Look at where each word of a run looks.

    ```python
    run = lmm.generate(image, prompt, vi.viewer.view_probes(), max_new_tokens=3)
    vi.view(run, image).save("attention.html")          # or in a notebook: vi.view(run, image)
    ```

    Shows what the run recorded: `AttentionMaps` (needed), `SinkValue` for phi and sinks,
    `SegmentMass` for image mass by head, `Pattern` at some layers for single heads, `Contribution`,
    and `LogitLens(rows="image")` for the words of patches.

    **Arguments:**

    - `run`: of one prompt.
    - `image`: the image or images of the prompt, which a run does not hold.
    - `after`: the same answer under an edit, fed back by `lmm.run(encoding.with_answer(run), ...)`.
    - `names`: of the two; `("before", "after")` by default.
    - `title`: by default the model and the answer.

    **Raises:** `ResultError` for a batch, a run without maps, a probe that lacks layers or rows of
    these maps, or an `after` of other tokens or probes; `InputError` for another number of images
    than the prompt has.
    """
    images = as_images(image) or None
    count = len(run.layout.images[0])
    if images is not None and len(images) != count:
        raise InputError(f"the prompt has {count} images; got {len(images)}")
    if names is not None and (after is None or len(names) != 2):
        raise InputError(f"names are of two runs, run and after; got {names!r}")
    first, second = names or ("before", "after")
    runs = [("run", run)] if after is None else [(first, run), (second, after)]
    text = run.text if isinstance(run.text, str) else run.text[0]
    return Viewer(payload(runs, images, title or f"{run.model}: {text}"))


def view_probes(
    heads: Layers | None = None, *, layers: Layers = ":", sinks: bool = True, lens: bool = False
) -> EditGraph:
    """The probes that a full view wants.

    ```python
    run = lmm.generate(image, prompt, vi.viewer.view_probes(heads=[2, 5]), max_new_tokens=3)
    vi.view(run, image)
    ```

    **Arguments:**

    - `heads`: layers of which every head can be looked at; none by default, for patterns are large.
    - `layers`: layers to look at; in a model that mixes kinds of attention, those that have a
        pattern: `lmm.layers_with("attn.hook_pattern")`.
    - `sinks`: False for a model without known sink dimensions.
    - `lens`: read every patch as a word, after every layer.
    """
    graph = AttentionMaps(layers=layers) | SegmentMass(groups=("image",), layers=layers)
    graph = graph | SinkValue() if sinks else graph
    graph = graph | LogitLens(top_k=1) if lens else graph
    return graph if heads is None else graph | Pattern(layers=heads)


def look(
    lmm: LMM,
    image: Any,
    prompt: Any = None,
    graph: Graphlike = None,
    *,
    heads: Layers | None = None,
    sinks: bool | None = None,
    lens: bool = False,
    max_new_tokens: int = 64,
) -> Viewer:
    """Answer a prompt and view it; with an edit, the same answer before and after.

    Shows the layers that have an attention pattern.

    ```python
    vi.viewer.look(lmm, image, "what color is the circle?", vi.VAR(rho=0.5), max_new_tokens=2)
    ```

    **Arguments:**

    - `image`, `prompt`: as `lmm.generate` takes them, or an `Encoding`.
    - `graph`: edits of what attention reads; none by default.
    - `heads`: layers of which every head can be looked at.
    - `sinks`: box visual sinks; by default where the model's sink dimensions are known.
    - `lens`: also read every patch as a word, after every layer (the logit lens).
    - `max_new_tokens`: the longest answer.

    **Raises:** as `lmm.generate`; `ResultError` for a batch; `CapabilityError` for `sinks=True`
    without sink dimensions; `InputError` for a graph of which nothing could be seen.
    """
    encoding = image if isinstance(image, Encoding) else lmm.encode(image, prompt)
    boxed = _has_sinks(lmm) if sinks is None else sinks
    layers, edit = lmm.layers_with(AttentionMaps.hook), as_graph(graph)
    probes = view_probes(heads, layers=layers, sinks=boxed, lens=lens)
    _refuse_unseen(edit)
    run = lmm.generate(encoding, graph=probes, max_new_tokens=max_new_tokens)
    after = None
    if edit:
        after = lmm.run(encoding.with_answer(run), graph=edit | probes)
    names = ("before", "after " + " | ".join(type(node).__name__ for node in edit))
    return view(run, list(encoding.images[0]), after=after, names=names if edit else None)


def _refuse_unseen(graph: EditGraph) -> None:
    """Refuse nodes that change nothing in a view, which shows the same words before and after."""
    for node in graph:
        if isinstance(node, Probe):
            raise InputError(
                f"a view records what it shows by itself, and of {node!r} nothing: leave it out, "
                "or show a run of yours with vi.view(run, image)"
            )
        if node.point.name in ("ln_final.hook_out", "unembed.hook_out"):
            raise InputError(
                f"{node!r} changes which word is chosen, and a view shows where the same words "
                "look before and after: take an edit of layers"
            )


def _has_sinks(lmm: LMM) -> bool:
    try:
        return bool(lmm.sinks.dims)
    except CapabilityError:
        return False
