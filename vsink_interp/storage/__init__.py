"""Crash-safe files: written whole or not at all, by one writer, and checked when read."""

from .fields import (
    entry as entry,
    reading as reading,
    refuse_format as refuse_format,
    told as told,
)
from .files import (
    checksum as checksum,
    read_json as read_json,
    reserved as reserved,
    sync as sync,
    unwritable as unwritable,
    write_bytes as write_bytes,
    write_text as write_text,
)
from .row_log import (
    RowLog as RowLog,
    described as described,
    logged as logged,
    refuse_about as refuse_about,
)
