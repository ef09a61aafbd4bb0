"""What a request costs: bytes and seconds of its parts, at the sizes of LLaVA-1.5-7B and the toy.

`python -m benchmarks.remote`: prints the tables for `docs/remote.md`. The sizes of the 7B need no
weights: its structure is compiled for, and nothing runs.
"""

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import vsink_interp as vi
from tests import tiny
from tests.remote.conftest import Loopback
from vsink_interp.families import FAMILIES
from vsink_interp.remote.client import Server, Submitting
from vsink_interp.remote.request import Hosted, send
from vsink_interp.toy import weights_dir

GRAPHS = {
    "nothing": vi.EditGraph(),
    "Knockout, all layers": vi.Knockout("image -> query generated"),
    "VAR": vi.VAR(),
    "VAR, SegmentMass, SinkValue": vi.VAR() | vi.probes.SegmentMass() | vi.probes.SinkValue(),
    "AttentionMaps": vi.probes.AttentionMaps(),
}

FORMS = {form.name: form for form in FAMILIES}


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
    return processor


def large_qwen(folder):
    """The structure of Qwen2-VL-7B, with the tiny tokenizer."""
    config, processor = FORMS["Qwen2-VL"].tiny()
    sizes = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    }
    config.text_config.update({**sizes, "layer_types": ["full_attention"] * 28})
    config.text_config.rope_parameters["mrope_section"] = [16, 24, 24]
    config.vision_config.update({"hidden_size": 3584, "depth": 32, "embed_dim": 1280})
    config.architectures = ["Qwen2VLForConditionalGeneration"]
    config.save_pretrained(folder)
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    return processor


def weigh(lmm, graph, n_new):
    """Seconds to compile, bytes to send, bytes that come back at most; with 576 image tokens."""
    session = lmm.session(Server("http://127.0.0.1:1", watch=silent))
    began = time.perf_counter()
    session.generate(tiny.image().resize((672, 672)), "what is this ?", graph, max_new_tokens=n_new)
    compiled = time.perf_counter() - began
    hosted: Hosted = lmm.backend.hosted
    backend = Submitting(hosted.key, host="http://127.0.0.1:1", env={}, blocking=False)

    def stop(*_):
        raise Weighed

    backend._post = stop
    with suppress(Weighed):
        send(hosted, session.requests, backend)
    back = sum(session.requests[0].sizes.values())
    return compiled, backend.sent, back


def main():
    print("| graph at 7B sizes, 32 new tokens | compiled in | sent | back, at most |")
    print("|---|--:|--:|--:|")
    for name, make in (("LLaVA-1.5", large), ("Qwen2-VL", large_qwen)):
        with tempfile.TemporaryDirectory() as folder:
            processor = make(Path(folder))
            with patch("vsink_interp.model.lmm_base.load_processor", return_value=processor):
                lmm = vi.LMM.from_pretrained(folder, remote="http://127.0.0.1:1")
            lmm.sinks = vi.SinkDims((1415, 2533), 20.0)
            for graph_name, graph in GRAPHS.items():
                compiled, sent, back = weigh(lmm, graph, 32)
                row = f"{compiled:.2f} s | {sent / 1e3:.0f} kB | {back / 1e6:.1f} MB"
                print(f"| {name}: {graph_name} | {row} |")
    with_loopback()


def with_loopback():
    """Seconds of a call here and over a server on loopback."""
    with tempfile.TemporaryDirectory() as folder:
        server = Loopback(Path(folder), [weights_dir]).start()
        try:
            lmm = vi.LMM.from_pretrained(weights_dir, remote=server.server(watch=silent))
            here = vi.LMM.toy()
            lmm.sinks = here.sinks
            image = vi.toy.scene(0).image
            for place, model in (("here", here), ("on loopback", lmm)):
                for name, graph in GRAPHS.items():
                    model.generate(image, "what is this ?", graph, max_new_tokens=8)
                    began = time.perf_counter()
                    for _ in range(3):
                        model.generate(image, "what is this ?", graph, max_new_tokens=8)
                    seconds = (time.perf_counter() - began) / 3
                    print(f"| toy, {place}: {name} | {seconds:.3f} s |")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
