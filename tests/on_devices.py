"""Runs of a tiny model spread over two devices that are not there; `test_devices.py` reads them."""

import json
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import vsink_interp as vi
from tests import nodes, tiny
from tests.devices import FIRST, SECOND, Accelerators, moved

DROPPED = vi.DropKeys("sink & image", "1:")
GRAPHS = {
    "nothing": vi.EditGraph(),
    "probes": vi.EditGraph(*nodes.OTHERS.values()),
    "edits of attention": vi.EditGraph(
        nodes.KNOCKOUTS["sinks of a head"],
        nodes.HIDDEN["control"],
        nodes.VARS["own tau"],
        *(nodes.SIZED[name] for name in ("scaled scores", "added scores", "moved mass")),
        nodes.CALIBRATIONS["calibrated answer"],
    ),
    "edits of values": vi.EditGraph(
        *(
            nodes.SIZED[name]
            for name in ("scaled keys", "scaled heads", "steered", "set dimensions")
        ),
        *nodes.PATCHES.values(),
    ),
    "dropped keys": DROPPED | vi.probes.SegmentMass(),
    "contrast": vi.EditGraph(nodes.CONTRASTS["noised image"]),
}
PROMPTS = [tiny.PROMPTS[name] for name in ("one image", "short", "two images")]


def values(run: vi.Run) -> list[Tensor]:
    found = [run.logits, *(record.values for record in run.records.values())]
    assert {x.device.type for x in (*found, run.ids)} == {"cpu"}
    return found


def generated(lmm: vi.LMM, graph: vi.EditGraph) -> list[Tensor]:
    images, prompts = zip(*PROMPTS, strict=True)
    return values(lmm.generate(list(images), list(prompts), graph, max_new_tokens=3))


def answered(lmm: vi.LMM) -> list[Tensor]:
    encoding = lmm.encode(*tiny.PROMPTS["one image"])
    answer = lmm.generate(encoding, max_new_tokens=3).generated
    return values(lmm.run(encoding.with_answer(answer)))


def asked(lmm: vi.LMM) -> list[Tensor]:
    spec = vi.CompressedContext(0.5, "attention-without-sinks")
    context = lmm.compress(*tiny.PROMPTS["one image"], spec, max_new_tokens=3)
    return values(context.ask(["count", "what is it now ?"], max_new_tokens=3))


CASES: dict[str, Callable[[vi.LMM], list[Tensor]]] = {
    **{name: partial(generated, graph=graph) for name, graph in GRAPHS.items()},
    "an answer read at once": answered,
    "questions of a context": asked,
}


def spread(hf_model: Any) -> None:
    """Half of the layers, the norm and the head on a second device, and inputs brought to them."""
    moved(hf_model, FIRST)
    inner = hf_model.model.language_model
    for part in (*inner.layers[2:], inner.norm, hf_model.lm_head):
        moved(part, SECOND)
        part.register_forward_pre_hook(_bring, with_kwargs=True)


def _bring(_: Any, args: Any, kwargs: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda x: x.to(SECOND) if isinstance(x, Tensor) else x, (args, kwargs)
    )


def main() -> None:
    lmm, plain = tiny.fresh("eager"), tiny.lmm(attention="eager")
    with Accelerators() as devices:
        spread(lmm.hf_model)
        for name, case in CASES.items():
            devices.waited.clear()
            try:
                pairs = list(zip(case(lmm), case(plain), strict=True))
                apart = max(float((a - b).abs().nan_to_num().max()) for a, b in pairs if a.numel())
                told = {"apart": apart, "waited": sorted(map(str, devices.waited))}
            except Exception:  # noqa: BLE001 (told to the test)
                told = {"error": traceback.format_exc(limit=-6)[-1500:]}
            sys.stdout.write(json.dumps({name: told}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
