"""Everything that vsink_interp raises on purpose.

```text
VsinkError
 ├─ NotationError     (ValueError)  a flow, segment, layer range or hook name that cannot be read
 ├─ LayoutError       (ValueError)  the prompt lacks what was named, or a row would lose every key
 ├─ InputError        (ValueError)  an image, prompt or encoding that the model cannot take
 ├─ CapabilityError   (RuntimeError) the model cannot do that, here or remotely
 ├─ RemoteError       (RuntimeError) a server refused a request, or the job failed there
 │   └─ UnreachableError              it does not answer, or has lost the job; trying again may help
 └─ ResultError       (LookupError) a run holds no such result
```

Each message says what is wrong, lists the valid choices, and names the next step.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class VsinkError(Exception):
    """Base of every error that this package raises on purpose."""


class NotationError(VsinkError, ValueError):
    """A flow, group, layer range or hook name could not be read."""


class LayoutError(VsinkError, ValueError):
    """The prompt lacks a segment, or an edit would leave a row no key to attend to."""


class InputError(VsinkError, ValueError):
    """An image, a prompt or an encoding that the model cannot take."""


class CapabilityError(VsinkError, RuntimeError):
    """The model cannot do what was asked; the message says what would work."""


class RemoteError(VsinkError, RuntimeError):
    """A server refused a request, or a job failed there; the message includes its traceback."""


class UnreachableError(RemoteError):
    """A server does not answer, or has lost a job; trying again may help."""


class ResultError(VsinkError, LookupError):
    """A run holds no such result."""


def unknown(what: str, word: object, choices: Iterable[str]) -> str:
    """The message for a word that is not one of `choices`."""
    legal = list(choices)
    close = get_close_matches(str(word), legal, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{word!r} is not a valid {what}{hint} (choose from: {', '.join(legal)})"
