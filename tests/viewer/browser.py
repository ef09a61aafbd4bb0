"""A headless Chromium, driven over its own protocol; no name resolves in it."""

import json
import shutil
import subprocess
import time
from itertools import count

import websocket

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>", "--remote-allow-origins=*",
    "--remote-debugging-port=0",
)  # fmt: skip
READY = "document.querySelector('.vsink')?.dataset.ready === 'yes'"


class Browser:
    """One page of one browser."""

    def __init__(self, profile):
        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port = wait(lambda: (profile / "DevToolsActivePort").read_text().split())
        address = f"ws://127.0.0.1:{port[0]}{port[1]}"
        self.socket = websocket.create_connection(address, timeout=60)
        self.numbers = count(1)
        self.events = []
        target = self.ask("Target.createTarget", url="about:blank", session=None)["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True, session=None)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method, session="own", **params):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if session == "own":
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            found = json.loads(self.socket.recv())
            if found.get("id") == number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def open(self, path, width=1280, height=900, *, ready=READY):
        self.events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.ask("Page.navigate", url=path.as_uri())
        wait(lambda: self.run(ready))

    def run(self, script):
        """The value of an expression in the page."""
        found = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key):
        self.run("document.querySelector('.vsink').focus()")
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def mouse(self, x, y, *kinds):
        for kind in kinds:
            button = "none" if kind == "mouseMoved" else "left"
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    @property
    def complaints(self):
        """Errors of scripts and of the console, and whatever was asked of the network."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Network.requestWillBeSent")
        found = [event for event in self.events if event.get("method") in kinds]
        return [
            event for event in found
            if not event["params"].get("request", {}).get("url", "").startswith(("file:", "data:"))
        ]  # fmt: skip

    def close(self):
        self.socket.close()
        self.process.kill()
        self.process.wait()


def wait(look, seconds=60):
    """What a look gives, as soon as it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := look():
                return found
        except (OSError, IndexError):
            pass
        time.sleep(0.05)
    raise TimeoutError(f"nothing within {seconds} seconds")
