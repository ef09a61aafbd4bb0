"""The viewer: attention over images to click through, in notebooks and as offline pages."""

from . import payload as payload
from .view import Viewer as Viewer, look as look, view as view, view_probes as view_probes
