"""The same plans on an NDIF server: requests compiled and sent, results fetched and read."""

from .client import Later as Later, Server as Server
from .request import (
    Hosted as Hosted,
    Request as Request,
    compile_run as compile_run,
    read_back as read_back,
)
