"""Every figure, table and ablation of both papers as one call: measured rows, figure, verdict."""

from .entry import (
    PAPERS as PAPERS,
    VERDICTS as VERDICTS,
    Entry as Entry,
    Outcome as Outcome,
    Published as Published,
    Setup as Setup,
)
from .listing import (
    ENTRIES as ENTRIES,
    NOT_ESTABLISHED as NOT_ESTABLISHED,
    find as find,
    reproduce as reproduce,
)
from .measurements import Measurements as Measurements, Summary as Summary
from .outcomes import TELLING as TELLING
