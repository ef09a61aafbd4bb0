"""Text tokens coloured by a number, with circuitsvis and without network access."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, final

from ..errors import InputError
from ..experiments import TokenStrengths

MOST_TOKENS = 400
"""circuitsvis draws text, not the hundreds of tokens of an image."""


@final
@dataclass(frozen=True)
class TokenView:
    """A circuitsvis view as self-contained HTML; notebooks display it."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


def token_strengths(
    tokens: TokenStrengths | Sequence[str], values: Sequence[float] | None = None
) -> TokenView:
    """Text tokens, bluer for higher values; hover over one to see its number.

    ```python
    vi.plot.token_strengths(["a", "red", "circle"], [0.1, 0.6, 0.3])
    ```

    **Arguments:**

    - `tokens`: the result of `experiments.token_strengths`, or the tokens of any text.
    - `values`: one number per token, if they are not `TokenStrengths`.

    **Raises:** `InputError` if tokens and values do not match, or are too many to draw.
    """
    if isinstance(tokens, TokenStrengths):
        if values is not None:
            raise InputError("TokenStrengths hold their values: leave values out")
        return token_strengths(tokens.words, [float(v) for v in tokens.attention])
    if values is None or len(values) != len(tokens):
        raise InputError(f"{len(tokens)} tokens need as many values; got {len(values or ())}")
    few_tokens(len(tokens))
    from circuitsvis.tokens import colored_tokens

    labels = [f" {escape(token.strip())} " for token in tokens]
    return view_of(colored_tokens(labels, [float(v) for v in values]))


def view_of(drawn: Any) -> TokenView:
    """What circuitsvis drew, without a link to a CDN.

    `local_src` alone carries its script. Its `<div/>` is not closed, as HTML reads it, and would
    swallow what follows on the page.
    """
    source = drawn.local_src
    return TokenView(source.replace('margin: 15px 0;"/>', 'margin: 15px 0;"></div>', 1))


def few_tokens(count: int) -> None:
    """Refuse more tokens than circuitsvis draws.

    **Raises:** `InputError` saying what to leave out.
    """
    if count > MOST_TOKENS:
        raise InputError(
            f"{count} tokens are more than circuitsvis draws ({MOST_TOKENS}); leave the image "
            "tokens out, and see plot.overlay for those"
        )
