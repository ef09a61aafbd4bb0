"""The report's sections on the input: image and answer, token layout, attention to the prompt."""

from html import escape
from typing import Final

from ..edits import VAR
from ..experiments import token_strengths
from ..metrics import score_objects
from ..model.progress import silent
from ..results import Run
from ..tokens import NAMES
from ..viewer import look
from .page import chips, photo, setting, table, text
from .study import Study
from .tokens import token_strengths as draw_strengths

MOST_BYTES: Final = 2_000_000
"""Of the patterns of single heads that a report may hold."""


def scene_and_answer(study: Study) -> str:
    """The image, the question, and the model's answer."""
    answer = study.run.text if isinstance(study.run.text, str) else study.run.text[0]
    rows = [("prompt", study.prompt), ("answer", answer or "(nothing)")]
    if study.truth:
        rows.append(("true objects", study.truth))
        found, true = study.cases.read(answer), study.cases.read(study.truth)
        rows.append(("object F1 of this answer", f"{score_objects(found, true).f1:.2f}"))
    size = f"{study.image.width} x {study.image.height} pixels"
    return (
        f'<div class="pair">{photo(study.image, "the image")}<div>'
        + table(("", ""), rows)
        + setting(f"{size}; greedy decoding, at most {study.max_new_tokens} new tokens.")
        + "</div></div>"
    )


def every_word(study: Study) -> str:
    """The viewer: every word, layer and patch; before and after VAR where sinks are known."""
    shown = look(
        study.lmm,
        study.image,
        study.prompt,
        VAR(p=0.6, rho=0.5) if study.has_sinks else None,
        heads=":" if _is_small(study) else None,
        sinks=study.has_sinks,
        lens=_is_small(study),
        max_new_tokens=study.max_new_tokens,
    )
    return (
        text(
            "Click a word, move through the layers with the slider or the arrow keys, point at a "
            "patch. A word of the answer shows the attention of the rows that predict it. "
            "<em>Before</em> and <em>after</em> VAR are of the same words, because the unedited "
            "answer is fed back."
        )
        + shown.fragment("every-word")
        + setting("The same page for any image: <code>vsink view</code>.")
    )


def _is_small(study: Study) -> bool:
    """Whether single heads of every layer fit the page."""
    lmm, layout = study.lmm, study.run.layout
    rows, patches = layout.length, int(layout.mask("image").sum())
    return lmm.n_layers * lmm.n_heads * rows * patches < MOST_BYTES


def token_layout(study: Study) -> str:
    """Which tokens are what."""
    run = study.run
    line = str(run.layout)
    return (
        text(
            "Every token belongs to one segment. Flows such as <code>image -&gt; generated</code> "
            "are written in these words; the row that <em>predicts</em> a generated token is the "
            "attention &ldquo;of&rdquo; that token, so the last prompt row is the first "
            "generated token's."
        )
        + chips(_chips(run))
        + f"<pre>{escape(line)}</pre>"
    )


def _chips(run: Run) -> list[tuple[str, str]]:
    codes, index = run.layout.segments[0].tolist(), run.layout.image_index[0].tolist()
    found: list[tuple[str, str]] = []
    seen: set[int] = set()
    for code, image, word in zip(codes, index, run.words[0], strict=True):
        if code == 0:
            continue
        if image < 0:
            found.append((NAMES[code], word.strip() or repr(word)))
        elif image not in seen:
            seen.add(image)
            span = run.layout.images[0][image]
            found.append(("image", f"image {str(span).replace('x', ' x ')} = {span.size} tokens"))
    return found


def strengths(study: Study) -> str:
    """Attention of the answer to the words of the prompt."""
    found = token_strengths(
        study.lmm,
        study.image,
        study.prompt,
        max_new_tokens=study.max_new_tokens,
        tick=silent,
    )
    rest = float(found.attention.sum())
    return (
        text(
            "The attention of the answer to each text token of the prompt: the bluer, the more. "
            "Hover over a token to see its share."
        )
        + draw_strengths(found).html
        + setting(
            f"Mean over heads, answer rows and layers {found.layers[0]} to {found.layers[-1]}. "
            f"These tokens hold {rest:.2f} of the attention, the image {found.image:.2f}, tokens "
            "generated before the rest. Drawn by circuitsvis, with its script embedded."
        )
    )
