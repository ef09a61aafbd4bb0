"""A server of our own on loopback, in another process, without this package."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import httpx
import pytest
import torch

from tests import tiny
from vsink_interp.families import FAMILIES
from vsink_interp.remote.client import Server
from vsink_interp.toy import weights_dir

SCRIPT = Path(__file__).with_name("server.py")
SAME = 1e-5
"""How far apart a local and a remote number may be."""
NOT_THERE = "brought about on a server of our own alone"


@cache
def nursery():
    """The process that servers are forked from."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="session", autouse=True)
def _nursery_ends():
    yield
    if nursery.cache_info().currsize:
        nursery().communicate()


class Loopback:
    """The server process: started, killed and started again by its number."""

    def __init__(self, folder, hosted, key=None):
        self.folder, self.hosted, self.key = folder, hosted, key
        self.number = None

    def start(self):
        if Real.host:
            pytest.skip(NOT_THERE)
        (self.folder / "ready").unlink(missing_ok=True)
        words = [str(self.folder), [str(path) for path in self.hosted], self.key]
        nursery().stdin.write(json.dumps(words) + "\n")
        nursery().stdin.flush()
        self.number = int(nursery().stdout.readline())
        until = time.monotonic() + 120
        while not (self.folder / "ready").exists():
            assert self.alive, (self.folder / "log").read_text()[-3000:]
            assert time.monotonic() < until, "the server does not start"
            time.sleep(0.01)
        return self

    @property
    def alive(self):
        if self.number is None:
            return False
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self):
        if self.alive:
            os.kill(self.number, signal.SIGKILL)
        self.wait()

    def wait(self):
        """Until it is dead."""
        while self.alive:
            time.sleep(0.01)

    @property
    def host(self):
        return f"http://127.0.0.1:{(self.folder / 'port').read_text()}"

    @property
    def jobs(self):
        """How many jobs it has been sent."""
        path = self.folder / "jobs"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def fault(self, name):
        (self.folder / "fault").write_text(name)

    def server(self, **more):
        return Server(self.host, **more)


class Real:
    """A real NDIF server, which `ndif/run.sh` has started and will end."""

    host = os.environ.get("VSINK_NDIF", "")
    trusted = os.environ.get("VSINK_NDIF_TRUSTED") != "0"

    @property
    def jobs(self):
        """How many jobs it has been sent: it keeps a status of each in its store."""
        listing = {"list-type": "2", "prefix": "responses/"}
        return httpx.get(os.environ["VSINK_NDIF_STORE"], params=listing).text.count("<Key>")

    @property
    def folder(self):
        return pytest.skip(NOT_THERE)

    def fault(self, name):
        pytest.skip(f"{name}: {NOT_THERE}")

    def server(self, **more):
        return Server(self.host, **{"patience": 300.0, **more})


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """The tiny LLaVA of the core tests, saved."""
    if Real.host:
        return Path(os.environ["VSINK_NDIF_MODEL"])
    folder = tmp_path_factory.mktemp("tiny-llava")
    tiny.hf_model().save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def unseen_dir(tmp_path_factory):
    """The same once more, for a server on which no test has looked into it."""
    folder = tmp_path_factory.mktemp("unseen-llava")
    tiny.hf_model().save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


def untrusted(request):
    """A request's envelope, marked for the sandbox: without keys every request is trusted."""
    return json.dumps(request.model_dump() | {"trusted": False})


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Where tiny models of the families and in half precision lie once a test has saved them."""
    root = tmp_path_factory.mktemp("zoo")
    names = [family.name for family in FAMILIES if family.tiny] + [
        "torch.bfloat16",
        "torch.float16",
        "learned sinks",
        "layers of their own sizes",
    ]
    return {name: root / name.replace(" ", "-") for name in names}


@pytest.fixture(scope="session")
def loopback(tmp_path_factory, tiny_dir, unseen_dir, zoo):
    """A server that hosts the tiny LLaVA, the toy LMM, and tiny models of the other families."""
    if Real.host:
        from nnsight.schema.request import RequestModel  # not before beartype: it cannot follow

        with pytest.MonkeyPatch.context() as patch:
            if not Real.trusted:
                patch.setattr(RequestModel, "metadata", untrusted)
            yield Real()
        return
    hosted = [tiny_dir, unseen_dir, weights_dir, *zoo.values()]
    found = Loopback(tmp_path_factory.mktemp("loopback"), hosted)
    yield found.start()
    found.kill()


def same_records(here, there):
    """The same probes, axes, labels and numbers."""
    assert there.records.keys() == here.records.keys()
    for name, record in here.records.items():
        other = there.records[name]
        assert (other.axes, dict(other.coords)) == (record.axes, dict(record.coords))
        value = record.values.float()
        largest = float(value.nan_to_num(0.0, 0.0, 0.0).abs().max()) if value.numel() else 0.0
        near = SAME * max(1.0, largest)
        torch.testing.assert_close(
            other.values.float(), value, atol=near, rtol=SAME, equal_nan=True
        )
