"""Attention patterns as circuitsvis draws them: every head of a layer, over text tokens."""

from html import escape

from ..errors import ResultError
from ..probes import Pattern
from ..results import Run
from ..tokens import parse_fixed_group
from .tokens import TokenView, few_tokens, view_of


def attention_patterns(
    run: Run, layer: int, *, sample: int = 0, tokens: str = "prompt & ~image"
) -> TokenView:
    """The patterns of all heads of a layer, row by row, between the tokens of a group.

    ```python
    run = lmm.run(image, "What is this?", vi.probes.Pattern("all", layers=3))
    view = plot.attention_patterns(run, layer=3)
    ```

    What a row gives to tokens outside the group is not drawn, so rows may sum to less than one. For
    image tokens see `overlay`.

    **Arguments:**

    - `run`: recorded one `probes.Pattern("all")`, at this layer.
    - `sample`: which of its prompts.
    - `tokens`: the group of rows and keys.

    **Raises:** `ResultError` if that was not recorded; `LayoutError` for a group that the prompt
    lacks, `NotationError` for one that depends on sinks; `InputError` for more tokens than
    circuitsvis draws.
    """
    from circuitsvis.attention import attention_patterns as draw

    run.layout.check_group(parse_fixed_group(tokens, "the tokens of a view"), generates=False)
    record = run[Pattern].at(layer=layer, batch=sample)
    places = run.layout.mask(tokens)[sample].nonzero().flatten().tolist()
    known = [place for place in places if place in record.labels("query")]
    if known != places:
        raise ResultError(f"not every row of {tokens!r} was recorded: record probes.Pattern('all')")
    few_tokens(len(places))
    values = record.taken("query", places).values[:, :, places]
    words = [f" {escape(run.words[sample][place].strip())} " for place in places]
    return view_of(draw(tokens=words, attention=values.float()))
