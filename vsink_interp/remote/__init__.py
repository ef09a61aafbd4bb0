"""Plans on an NDIF server: compile and send requests, fetch and read results."""

from .client import LARGE as LARGE, Later as Later, Server as Server
from .request import (
    Hosted as Hosted,
    Request as Request,
    compile_run as compile_run,
    read_back as read_back,
)
from .untrusted import check_number as check_number
