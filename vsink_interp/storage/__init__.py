"""Crash-safe files: written whole or not at all, by one writer, and checked when read."""

from .fields import (
    entry as entry,
    reading as reading,
    refuse_format as refuse_format,
    told as told,
)
from .files import (
    checksum as checksum,
    make_folder as make_folder,
    read_json as read_json,
    reserved as reserved,
    sync as sync,
    unwritable as unwritable,
    write_bytes as write_bytes,
    write_text as write_text,
)
from .part_log import (
    Log as Log,
    Part as Part,
    PartEnd as PartEnd,
    log_within as log_within,
    opened_log as opened_log,
)
from .row_log import (
    RowLog as RowLog,
    described as described,
    logged as logged,
    refuse_about as refuse_about,
)
from .shard_logs import (
    SHARD as SHARD,
    STEPS as STEPS,
    Shard as Shard,
    holds_steps as holds_steps,
    merge_logs as merge_logs,
    merged_steps as merged_steps,
    refuse_unmerged as refuse_unmerged,
    shard_log as shard_log,
    shard_logs as shard_logs,
)
