"""A server on loopback that says what it is told to, whatever is asked, and notes what it heard."""

import contextlib
import io
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
import zstandard

JOB = "0123456789abcdef"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def answer(self):
        self.server.heard.append((self.command, self.path, dict(self.headers)))
        says = next(v for k, v in self.server.says.items() if self.path.startswith(k))
        says = says() if callable(says) else says
        status, headers, chunks = says if isinstance(says, tuple) else (200, {}, says)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for chunk in [chunks] if isinstance(chunks, bytes) else chunks:
            self.wfile.write(chunk)
            self.wfile.flush()

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().handle()  # the client may have had enough, as it should


class Malicious:
    """The server; `says` maps the beginning of a path to what it answers."""

    def __init__(self, **says):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.heard = self.server.heard = []
        self.server.says = {f"/{name}": answer for name, answer in says.items()}
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def host(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def drip(seconds=60):
    """A byte now and then, for ever as far as a test is concerned."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield b" "
        time.sleep(0.05)


def saved(found, *, compress=True, level=zipfile.ZIP_STORED):
    """A result as servers send one."""
    buffer = io.BytesIO()
    torch.save(found, buffer)
    if level != zipfile.ZIP_STORED:
        packed = io.BytesIO()
        with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(packed, "w", level) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        buffer = packed
    content = buffer.getvalue()
    return zstandard.ZstdCompressor().compress(content) if compress else content
