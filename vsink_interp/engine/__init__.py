"""The only part that runs anything, and the only home of nnsight."""

from .attention import AttentionBinding as AttentionBinding
from .execute import Outcome as Outcome, execute as execute
from .second import Beside as Beside
from .taps import inside_trace as inside_trace, read as read
from .wrapped import Wrapped as Wrapped
