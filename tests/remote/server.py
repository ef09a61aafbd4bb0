"""A server on loopback that speaks nnsight 0.8.1's protocol, without this package.

`python server.py` reads lines of JSON, `[state folder, hosted, key]`, and for each forks a server
and writes its number: importing torch and transformers takes longer than most tests. A server binds
a free port of 127.0.0.1, writes it to `port` in its folder, and serves until it is killed, or the
process that it was forked from is gone. It unpickles and runs what it receives, as NDIF does. What
it should do wrong is a file in the folder: `fault` names a stage at which the process kills itself
(`queued`, `running`), `cut` (half a result, once), `versions` or `older` (it says that its
transformers is of another kind), `autocast` (it runs jobs of half-precision models under autocast);
`hold` is a file of its own: jobs wait for it to go.
"""
# ruff: noqa: E402 (the finder below comes before anything else is imported)

import sys


class Absent:
    """Our package is on the path of the tests; here it must not be found."""

    def find_spec(self, name, path=None, target=None):
        del path, target
        if name.split(".")[0] == "vsink_interp":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())

import asyncio
import io
import json
import linecache
import os
import signal
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import zstandard
from nnsight.modeling.huggingface import _ID_CACHE
from nnsight.modeling.mixins.remotable import Remotable
from nnsight.ndif import get_local_env
from nnsight.schema.request import RequestModel
from nnsight.tracing.globals import BLOCKS, SOURCES
from nnsight.tracing.tracer import _saves, dec, inc
from tornado.web import Application, HTTPError, RequestHandler
from transformers import AutoProcessor, AutoTokenizer

torch.set_num_threads(1)
SETTING = {}
MODELS, RESPONSES, RESULTS = {}, {}, {}
WORKER = ThreadPoolExecutor(1)


def fault(name, *, once=False):
    path = SETTING["state"] / "fault"
    found = path.exists() and path.read_text() == name
    if found and once:
        path.unlink()
    return found


def die_if(stage):
    if fault(stage, once=True):
        os.kill(os.getpid(), signal.SIGKILL)


def say(job, status, description="", data=None):
    RESPONSES[job] = {"id": job, "status": status, "description": description, "data": data}


def preprocessors(repo):
    """What the pipeline is given: it runs on encoded inputs, so words alone do where torchvision,
    which many processors want for videos, is not installed."""
    tokenizer = AutoTokenizer.from_pretrained(repo)
    try:
        processor = AutoProcessor.from_pretrained(repo)
    except (ImportError, OSError, ValueError):
        processor = tokenizer
    return {"processor": processor, "tokenizer": tokenizer}


def model_for(key):
    repo = json.loads(key.split(":", 1)[1])["repo_id"]
    if repo not in SETTING["hosted"]:
        raise LookupError(f"Model {repo} is not deployed here and cannot be.")
    if key not in MODELS:
        _ID_CACHE[repo] = repo
        MODELS[key] = Remotable.from_model_key(key, dispatch=True, **preprocessors(repo))
        MODELS[key]._module.requires_grad_(False)
    return MODELS[key]


def execute(request, blob):
    model = model_for(request.model_key)
    model._remoteable_set_env(request.env)
    kept = linecache.cache.copy(), dict(SOURCES), dict(BLOCKS)
    try:
        tracer = RequestModel.deserialize(
            blob, model._remoteable_persistent_objects(), compress=request.compress
        )
        inc()
        dtype = next(model._module.parameters()).dtype
        half = dtype if dtype in (torch.float16, torch.bfloat16) else None
        try:
            # As NDIF does on its GPUs, where torch.matmul of fp32 is then no longer fp32.
            with torch.autocast("cpu", half, enabled=bool(half) and fault("autocast")):
                tracer.execute(tracer.info.code)
            found = {k: v for k, v in tracer.info.frame.f_locals.items() if id(v) in _saves()}
        finally:
            dec()
    finally:
        for store, before in zip((linecache.cache, SOURCES, BLOCKS), kept, strict=True):
            store.clear()
            store.update(before)
        model.interleaver.cancel()
    buffer = io.BytesIO()
    torch.save(found, buffer)
    content = buffer.getvalue()
    return zstandard.ZstdCompressor().compress(content) if request.compress else content


def work(job, request, blob, url):
    die_if("queued")
    while (SETTING["state"] / "hold").exists():
        time.sleep(0.02)
    say(job, "RUNNING", "Your job has started running.")
    die_if("running")
    try:
        RESULTS[job] = execute(request, blob)
        say(job, "COMPLETED", "Your job has been completed.", url)
    except BaseException:  # noqa: BLE001 (whatever a job does is its own error)
        say(job, "ERROR", traceback.format_exc())


class Handler(RequestHandler):
    def prepare(self):
        key = SETTING["key"]
        if key and self.request.headers.get("ndif-api-key") != key and self.request.path != "/env":
            raise HTTPError(401)

    def write_error(self, status_code, **_):
        words = {401: "Invalid or missing API key.", 404: "Not found."}
        self.finish(json.dumps({"detail": words.get(status_code, "server error")}))


class Request(Handler):
    def post(self):
        request = RequestModel.model_validate_json(self.get_body_argument("data"))
        job = os.urandom(8).hex()
        (SETTING["state"] / "jobs").open("a").write(job + "\n")
        say(job, "QUEUED", "Your job is number 1 in the queue.")
        self.finish(RESPONSES[job] | {"status": "RECEIVED", "description": "Received."})
        url = f"http://{self.request.host}/result/{job}"
        WORKER.submit(work, job, request, self.request.files["blob"][0]["body"], url)


class Response(Handler):
    def get(self, job):
        if job not in RESPONSES:
            raise HTTPError(404)
        self.finish(RESPONSES[job])


class Result(RequestHandler):  # a presigned address: it asks for no key
    async def get(self, job):
        content = RESULTS[job]
        self.set_header("Content-Length", len(content))
        if fault("cut", once=True):
            self.write(content[: len(content) // 2])
            await self.flush()
            self.request.connection.stream.close()
            return
        self.finish(content)


class Env(Handler):
    def get(self):
        env = get_local_env()
        if fault("versions"):
            env["packages"]["transformers"] = "4.40.0"
        if fault("older"):
            env["packages"]["transformers"] = "5.0.0"
        self.finish(env)


class Status(Handler):
    def get(self):
        hosted = {
            f"d{i}": {
                "model_key": f"nnsight.modeling.transformers.TransformersModel:{repo}",
                "repo_id": repo,
                "task": "image-text-to-text",
                "deployment_level": "HOT",
                "application_state": "RUNNING",
            }
            for i, repo in enumerate(SETTING["hosted"])
        }
        self.finish({"deployments": hosted})


async def serve():
    routes = [
        ("/request", Request), (r"/response/(\w+)", Response), (r"/result/(\w+)", Result),
        ("/env", Env), ("/status", Status),
    ]  # fmt: skip
    known = SETTING["state"] / "port"
    port = int(known.read_text()) if known.exists() else 0
    server = Application(routes).listen(port, "127.0.0.1")
    bound = next(iter(server._sockets.values())).getsockname()[1]
    (SETTING["state"] / "port.new").write_text(str(bound))
    (SETTING["state"] / "port.new").rename(known)
    (SETTING["state"] / "ready").write_text(str(os.getpid()))
    while os.getppid() == SETTING["parent"]:
        await asyncio.sleep(0.5)
    os._exit(0)  # a job that waits would hold up `exit`


def become(state, hosted, key):
    """What a forked process does: it is a server from now on."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(f"{state}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    SETTING.update(state=Path(state), hosted=hosted, key=key, parent=os.getppid())
    asyncio.run(serve())


def main():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are gone at once
    for line in sys.stdin:
        number = os.fork()
        if not number:
            become(*json.loads(line))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
