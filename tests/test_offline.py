"""Nothing reaches the network: the guard works, and the library needs none."""

import contextlib
import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.environ.get("VSINK_NETWORK") == "1", reason="the guard is off")


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_a_connection_is_refused(address, reached):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as client, pytest.raises(RuntimeError, match="tests run offline"):
        client.connect((address, 443))
    assert len(reached) == 1
    reached.clear()


def test_a_name_is_not_looked_up(reached):
    with pytest.raises(RuntimeError, match=r"huggingface\.co"):
        socket.create_connection(("huggingface.co", 443))
    reached.clear()


def test_an_attempt_is_noted_though_it_is_swallowed(reached):
    with contextlib.suppress(Exception):  # what a careless library does
        socket.create_connection(("example.org", 80))
    assert reached == ["example.org"]
    reached.clear()


def test_loopback_stays_open():
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_the_hub_is_told_so():
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE


TOY_WITHOUT_SOCKETS = """
import socket
def refuse(*args, **kwargs):
    raise SystemExit(f"reached for {args}")
socket.getaddrinfo = refuse
socket.socket.connect = refuse
import vsink_interp as vi
lmm, scene = vi.LMM.toy(), vi.toy.scene(seed=0)
print(lmm.generate(scene.image, "describe the image", vi.Knockout("image -> generated")).text)
"""


def test_the_toy_runs_without_network_and_without_being_told():
    """No HF_HUB_OFFLINE, no cache folder: the package carries all that the toy needs."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", TOY_WITHOUT_SOCKETS],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "it said nothing"
