"""Processes as a user has them, without the tests' checks of annotations.

They are forked from one that has loaded torch and transformers but not this package: loading them
takes ten times as long as what a test does with them.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(code, *argv, cwd=ROOT, after=""):
    """Run a program: its status, what it said, and its complaints, as `subprocess.run` has them.

    Programs `after` the same code are forked from one process that has run it.
    """
    with tempfile.TemporaryDirectory() as folder:
        said, complaints = Path(folder, "stdout"), Path(folder, "stderr")
        order = [after, code, [str(word) for word in argv], str(cwd), str(said), str(complaints)]
        mother = _mother()
        mother.stdin.write(json.dumps(order) + "\n")
        mother.stdin.flush()
        status = int(mother.stdout.readline())
        return subprocess.CompletedProcess(code, status, said.read_text(), complaints.read_text())


def run_module(name, *argv):
    """`python -m name`."""
    return run(f"import runpy; runpy.run_module({name!r}, run_name='__main__')", *argv)


def end():
    """End the process that the others are forked from, if there is one."""
    if _mother.cache_info().currsize:
        _mother().communicate()
        _mother.cache_clear()


@cache
def _mother():
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, __file__], env=env, **pipes)


def _work(code, argv, cwd, said, complaints):
    signal.alarm(120)
    for stream, path in ((1, said), (2, complaints)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(cwd)
    sys.argv = ["-c", *argv]
    sys.path[0] = ""
    try:
        exec(compile(code, "<a test's program>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if status and not isinstance(stop.code, int):
            sys.stderr.write(f"{stop.code}\n")
    except BaseException:  # noqa: BLE001 (said by the status, as Python does)
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve():
    import nnsight  # noqa: F401 (for the processes that are forked from here)
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration  # noqa: F401

    sys.path[0] = str(ROOT)
    assert "vsink_interp" not in sys.modules
    torch.set_num_threads(1)
    prepared = {}
    for line in sys.stdin:
        after, *order = json.loads(line)
        if after:
            if after not in prepared:
                prepared[after] = _prepared(after)
            orders, statuses = prepared[after]
            orders.write(json.dumps(["", *order]) + "\n")
            orders.flush()
            status = statuses.readline()
        else:
            status = f"{_status_of_child(*order)}\n"
        sys.stdout.write(status)
        sys.stdout.flush()
    for orders, _ in prepared.values():
        orders.close()
        os.wait()


def _prepared(code):
    """A process that has run some code and then takes orders: where to write them, what it says."""
    (orders, to_it), (from_it, statuses) = os.pipe(), os.pipe()
    if os.fork():
        os.close(orders)
        os.close(statuses)
        return os.fdopen(to_it, "w"), os.fdopen(from_it)
    os.close(to_it)
    os.close(from_it)
    os.dup2(2, 1)  # what it says is no status
    exec(compile(code, "<before a test's programs>", "exec"), {"__name__": "before"})
    for line in os.fdopen(orders):
        os.write(statuses, f"{_status_of_child(*json.loads(line)[1:])}\n".encode())
    os._exit(0)


def _status_of_child(*order):
    child = os.fork()
    if not child:
        _work(*order)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    _serve()
