"""The only part that runs anything, and the only home of nnsight."""

from .attention import AttentionBinding as AttentionBinding
from .cache import past_of as past_of, refuse_past as refuse_past
from .execute import Outcome as Outcome, execute as execute
from .remote import (
    Hosted as Hosted,
    Request as Request,
    compile_run as compile_run,
    read_back as read_back,
)
from .second import Beside as Beside
from .server import Later as Later, Server as Server
from .taps import live as live
from .wrapped import Wrapped as Wrapped
