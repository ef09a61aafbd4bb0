"""A model spread over two devices: the same values, nothing joined across them, both waited for.

The devices are emulated (`devices.py`), in a process of their own, for torch keeps them.
"""

import json

import pytest

from tests import plain_process

NAMES = (
    "nothing", "probes", "edits of attention", "edits of values", "dropped keys", "contrast",
    "an answer read at once", "questions of a context",
)  # fmt: skip


@pytest.fixture(scope="module")
def told():
    done = plain_process.run_module("tests.on_devices")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr[-2000:]
    return {name: found for line in lines for name, found in json.loads(line).items()}


@pytest.mark.parametrize("name", NAMES)
def test_two_devices_give_what_one_gives(told, name):
    found = told[name]
    assert "error" not in found, found["error"]
    assert found["apart"] < 1e-5


def test_records_of_every_device_are_waited_for(told):
    assert told["probes"]["waited"] == ["pretended:0", "pretended:1"]
    assert set(told) == set(NAMES)
