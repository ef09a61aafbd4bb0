"""What a request costs: bytes and seconds of its parts, at the sizes of LLaVA-1.5-7B and the toy.

`python -m benchmarks.remote`: prints the tables for `docs/remote.md`. The sizes of the 7B need no
weights: its structure is compiled for, and nothing runs.
"""

import tempfile
import time
from contextlib import suppress
from pathlib import Path

import vsink_interp as vi
from tests import tiny
from tests.remote.conftest import Loopback
from vsink_interp.engine import Hosted, Server
from vsink_interp.engine.remote import send
from vsink_interp.engine.server import Submitting
from vsink_interp.toy import weights_dir

GRAPHS = {
    "nothing": vi.EditGraph(),
    "Knockout, all blocks": vi.Knockout("image -> query generated"),
    "VAR": vi.VAR(),
    "VAR, SegmentMass, SinkValue": vi.VAR() | vi.probes.SegmentMass() | vi.probes.SinkValue(),
    "AttentionMaps": vi.probes.AttentionMaps(),
}


def silent(line):
    del line


class Weighed(Exception):  # noqa: N818 (it ends a request, and is no error)
    """Ends a request before it leaves."""


def large(folder):
    """The structure of LLaVA-1.5-7B, with the tiny tokenizer."""
    config = tiny.config(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        vocab_size=32064,
    )
    config.vision_config.image_size, config.image_seq_length = 336, 576
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(folder)
    processor = tiny.processor()
    processor.image_processor.size = {"shortest_edge": 336}
    processor.image_processor.crop_size = {"height": 336, "width": 336}
    processor.save_pretrained(folder)
    return folder


def weigh(lmm, graph, n_new):
    """Seconds to compile, bytes to send, bytes that come back at most."""
    session = lmm.session(Server("http://127.0.0.1:1", watch=silent))
    began = time.perf_counter()
    session.generate(tiny.picture(), "what is this ?", graph, max_new_tokens=n_new)
    compiled = time.perf_counter() - began
    hosted: Hosted = lmm.place.hosted
    backend = Submitting(hosted.key, host="http://127.0.0.1:1", env={}, blocking=False)

    def stop(*_):
        raise Weighed

    backend._post = stop
    with suppress(Weighed):
        send(hosted, session.requests, backend)
    back = sum(session.requests[0].sizes.values())
    return compiled, backend.sent, back


def main():
    print("| graph, LLaVA-1.5-7B's sizes, 32 new tokens | compiled in | sent | back, at most |")
    print("|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        lmm = vi.LMM.from_pretrained(large(Path(folder)), remote="http://127.0.0.1:1")
        lmm.sinks = vi.SinkDims((1415, 2533), 20.0)
        for name, graph in GRAPHS.items():
            compiled, sent, back = weigh(lmm, graph, 32)
            print(f"| {name} | {compiled:.2f} s | {sent / 1e3:.0f} kB | {back / 1e6:.1f} MB |")
    with tempfile.TemporaryDirectory() as folder:
        server = Loopback(Path(folder), [weights_dir]).start()
        try:
            lmm = vi.LMM.from_pretrained(weights_dir, remote=server.server(watch=silent))
            here = vi.LMM.toy()
            lmm.sinks = here.sinks
            picture = vi.toy.scene(0).image
            for place, model in (("here", here), ("on loopback", lmm)):
                for name, graph in GRAPHS.items():
                    model.generate(picture, "what is this ?", graph, max_new_tokens=8)
                    began = time.perf_counter()
                    for _ in range(3):
                        model.generate(picture, "what is this ?", graph, max_new_tokens=8)
                    seconds = (time.perf_counter() - began) / 3
                    print(f"| toy, {place}: {name} | {seconds:.3f} s |")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
