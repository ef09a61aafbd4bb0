"""Runs recorded programs (`op_trace`) on the server; like `runtime`, it is sent as source."""

from typing import Any

import torch
from torch import Tensor


def play(
    job: dict[str, Any],
    program: dict[str, Any],
    inputs: dict[str, Any],
    state: dict[str, Any],
    shift: int,
) -> Tensor:
    """Run a recorded program."""
    results = []
    n_keys = state["length"] - shift
    place = {"job": job, "inputs": inputs, "results": results, "n_keys": n_keys}
    for name, args, kwargs, origin in program["ops"]:
        function = found(name, job, state)
        given = [decode(arg, place) for arg in args]
        named = {key: decode(kwargs[key], place) for key in kwargs}
        try:
            results.append(function(*given, **named))
        except Exception as error:
            raise RuntimeError(
                job["origins"][origin] + ": " + type(error).__name__ + ": " + str(error)
            ) from error
    for question, origin in program["checks"]:
        if decode(question, place):
            raise RuntimeError(
                job["origins"][origin] + ": what this line checks does not hold; run it locally "
                "for its own message"
            )
    return decode(program["out"], place)


def found(name: str, job: dict[str, Any], state: dict[str, Any]) -> Any:
    """Find a function by its name."""
    if name == "unembed":
        return lambda resid: unembed(resid, job, state)
    function: Any = torch
    for part in name.split(".")[1:]:
        function = getattr(function, part)
    return function


def unembed(resid: Tensor, job: dict[str, Any], state: dict[str, Any]) -> Tensor:
    """The logits of residual vectors, by the model's final norm and unembedding."""
    norm, head = (state["model"].get(job["unembed"][part]) for part in ("norm", "head"))
    logits = head(norm(resid.to(state["dtype"]))).float()
    return job["kernels"]["softcapped"](logits * job["unembed"]["scale"], job["unembed"]["cap"])


def decode(value: Any, place: dict[str, Any]) -> Any:
    """Turn plain data back into arguments of torch functions."""
    if isinstance(value, tuple):
        return tuple([decode(part, place) for part in value])
    if isinstance(value, list):
        return [decode(part, place) for part in value]
    if isinstance(value, slice):
        return slice(
            decode(value.start, place), decode(value.stop, place), decode(value.step, place)
        )
    if not isinstance(value, dict):
        return value
    if "op" in value:
        result = place["results"][value["op"]]
        return result[value["item"]] if "item" in value else result
    if "input" in value:
        return place["inputs"][value["input"]]
    if "constant" in value:
        tensor = place["job"]["constants"][value["constant"]]
        if "axis" in value:
            tensor = tensor.narrow(value["axis"], 0, decode(value["length"], place))
        return tensor.to(place["inputs"]["value"].device)
    if "slope" in value:
        return value["slope"] * place["n_keys"] + value["start"]
    return place["inputs"]["value"].device
