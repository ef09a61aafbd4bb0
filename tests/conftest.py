"""What every test stands on: no network, one thread, one toy LMM."""

import gc
import ipaddress
import os
import socket

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["OMP_NUM_THREADS"] = "1"  # notebooks and subprocesses inherit it

import jaxtyping
import pytest
import torch

from tests import lacking, plain_process
from tests.checked import cache_own_code_alone, checked

jaxtyping.jaxtyped = checked  # what the hook of --jaxtyping-packages writes before every function
cache_own_code_alone()
torch.set_num_threads(1)  # the same sums in the same order on every machine

REACHED: list[str] = []


class NetworkBlockedError(RuntimeError):
    """A test tried to leave the machine; not an OSError, so that no retry loop swallows it."""


def is_local(family: int, address: object) -> bool:
    """Whether a socket address stays on this machine."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = str(address[0])
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


def refuse(address: object) -> None:
    """Record an attempt and raise."""
    REACHED.append(str(address))
    raise NetworkBlockedError(
        f"a test tried to reach {address}; tests run offline. Mark it `network` if it must, "
        "and run it with VSINK_NETWORK=1"
    )


class GuardedSocket(socket.socket):
    """A socket that connects to this machine alone."""

    def connect(self, address):
        if not is_local(self.family, address):
            refuse(address)
        return super().connect(address)

    def connect_ex(self, address):
        if not is_local(self.family, address):
            refuse(address)
        return super().connect_ex(address)


def pytest_addoption(parser):
    parser.addoption(
        "--rounds", type=int, default=1, help="how much of the stress tests' work is done; 1 in CI"
    )


@pytest.fixture(scope="session")
def rounds(request):
    """How many times the work of a stress test is done."""
    return request.config.getoption("--rounds")


def pytest_collection_modifyitems(items):
    no_gpu = pytest.mark.skip(reason="needs a GPU: torch.cuda.is_available() is False")
    absent = pytest.mark.skip(reason=f"{lacking.FAMILIES}: not on this version of transformers")
    no_network = pytest.mark.skip(reason="needs the network: run with VSINK_NETWORK=1")
    for item in items:
        if lacking.FAMILIES and any(one in item.nodeid for one in (*lacking.FAMILIES, "gemma4")):
            item.add_marker(absent)
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "network" in item.keywords and os.environ.get("VSINK_NETWORK") != "1":
            item.add_marker(no_network)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Modules and tests stay to the end: no collection of garbage walks them, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def offline():
    """No socket leaves the machine, and no name is looked up, while the tests run."""
    if os.environ.get("VSINK_NETWORK") == "1":
        yield
        return
    resolve = socket.getaddrinfo

    def guarded_resolve(host, *args, **kwargs):
        if host is not None and not is_local(socket.AF_INET, (_text(host),)):
            refuse(host)
        return resolve(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", GuardedSocket)
        patch.setattr(socket, "getaddrinfo", guarded_resolve)
        yield


@pytest.fixture(autouse=True, scope="session")
def _plain_processes_end():
    yield
    plain_process.end()


@pytest.fixture(autouse=True, scope="session")
def no_windows():
    """Figures are drawn off screen. Not by MPLBACKEND, which notebooks would inherit."""
    import matplotlib

    matplotlib.use("agg")


@pytest.fixture(autouse=True)
def reached():
    """Fail a test that tried to leave the machine, also if the library swallowed the refusal."""
    REACHED.clear()
    yield REACHED
    attempts, REACHED[:] = list(REACHED), []
    assert not attempts, f"this test tried to reach {attempts}"


@pytest.fixture(scope="session")
def lmm():
    """The toy LMM that ships with the package."""
    import vsink_interp as vi

    return vi.LMM.toy()


@pytest.fixture
def opened(lmm, monkeypatch):
    """Whatever opens the toy LMM by its name gets the one of all tests; the names asked for."""
    import vsink_interp as vi

    names, load = [], vi.LMM.from_pretrained

    def open_one(source, **given):
        names.append(source)
        return lmm if source == "toy" else load(source, **given)

    monkeypatch.setattr(vi.LMM, "from_pretrained", staticmethod(open_one))
    return names


@pytest.fixture(scope="session")
def scene():
    """One procedurally drawn scene with its ground truth."""
    import vsink_interp as vi

    return vi.toy.scene(seed=0)


def _text(host: str | bytes) -> str:
    return host.decode() if isinstance(host, bytes) else host
