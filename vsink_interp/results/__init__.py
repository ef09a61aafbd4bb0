"""The result of a run: `Run`, with one `Recorded` per probe."""

from .counting import counted as counted, rows_of as rows_of
from .joining import join as join
from .recorded import Recorded as Recorded
from .run import Run as Run
from .saving import layout_from as layout_from, layout_parts as layout_parts
from .sink_tokens import SinkToken as SinkToken, SinkTokens as SinkTokens
from .tables import Tables as Tables
from .words import FIELDS as FIELDS, WORD as WORD, split_words as split_words
