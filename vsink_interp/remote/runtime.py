"""The code that runs on the server, inside nnsight's trace; it is sent as source.

It uses only torch and plain data: `job` is made by `compiler.Compiler`, and `state` collects the
results. Only outputs are read, never the inputs of a module that carries
the cache: behind a sandbox every read is a copy, and the copy of a cache would be written back.
"""

from typing import Any

import torch
from torch import Tensor


def new_state() -> dict[str, Any]:
    """The results of one run, empty."""
    return {
        "length": 0,
        "phi": {},
        "resid": {},
        "weights": {},
        "pieces": [],
        "watched": [],
        "blind": [],
        "lost": [],
        "logits": [],
        "ids": None,
    }


def answers(job: dict[str, Any], ids: Tensor) -> Tensor:
    """The ids of the run's own pass, of all that went in step."""
    own, *others = ids.chunk(job["passes"])
    for other in others:
        if bool((other[:, job["prompt"] :] != own[:, job["prompt"] :]).any()):
            raise RuntimeError(
                "a pass of contrastive decoding, which reads another prompt, chose another token "
                "than the first: something beside the logits chose it, as a repetition penalty may"
            )
    return own[:, job["shift"] :].cpu()


def forward(model: Any, job: dict[str, Any], state: dict[str, Any]) -> None:
    """Act at every stop of one forward pass."""
    state["model"] = model
    phase = "decode" if state["length"] else "prefill"
    state["length"] += 1 if state["length"] else job["prompt"]
    for stop in job["stops"]:
        if stop["kind"] == "attention":
            # Asked for when its module runs already, as behind a stop at v, it comes too late.
            _ = model.get(stop["path"]).source
    for stop in job["stops"]:
        if stop["kind"] == "attention":
            if stop[phase] is not None:
                attention(model, job, state, stop, stop[phase])
        elif stop[phase] is not None:
            tap(model, job, state, stop, stop[phase])


def tap(
    model: Any, job: dict[str, Any], state: dict[str, Any], stop: dict[str, Any], calls: list[Any]
) -> None:
    """Read a module's value, apply the nodes, and write back what they changed.

    A residual stream read at the input of a norm goes on in two ways: through the norm, and beside
    it. Here only the first can be written, as `mid' = mid + d`. So the layer's own
    `post = mid + mlp(norm(mid'))` lacks `d`, and gets it where the layer ends: `post' = post + d`.
    """
    envoy = model.get(stop["path"])
    raw = envoy.output if stop["side"] in ("output", "first output") else envoy.input
    value, bias = value_of(raw, envoy, job, state, stop)
    old = state["resid"].pop(stop["layer"], None) if stop["settles"] else None
    new = value if old is None else (value.float() + old).to(value.dtype)
    new, changed = visit(job, state, calls, new, stop["layer"], {}, stop["samples"])
    if stop["logits"] and job["passes"] > 1 and job["generate"] is not None:
        # Every pass goes on with the same token.
        new, changed = torch.cat([new.chunk(job["passes"])[0]] * job["passes"]), True
    if changed or old is not None:
        if stop["side"] == "residual input":
            # The branch beside the norm has the old value: what is missing is added at the end.
            state["resid"][stop["layer"]] = new.float() - value.float()
        put(envoy, raw, new, bias, stop)
    note(job, state, stop, new)


def value_of(
    raw: Any, envoy: Any, job: dict[str, Any], state: dict[str, Any], stop: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """A hook point's value from what its module holds, and the bias that it leaves out."""
    bias = None
    value = shown(raw[0] if stop["side"] == "first output" else raw, stop)
    if stop["side"] == "head results":
        weight, bias = projection(envoy, stop["path"], raw, state)
        value = job["kernels"]["head_result"](value, head_weight(weight, stop["heads"]))
    return (value if stop["scale"] == 1.0 else value * stop["scale"]), bias


def put(envoy: Any, raw: Any, new: Tensor, bias: Tensor | None, stop: dict[str, Any]) -> None:
    """Write a hook point's new value into its module; the opposite of `value_of`."""
    own = new if stop["scale"] == 1.0 else new / stop["scale"]
    if stop["side"] == "residual input":
        envoy.input = new
    elif stop["side"] == "input":
        envoy.input = held(new, stop)
    elif stop["side"] == "first output":
        envoy.output = (own, *raw[1:])
    elif stop["side"] == "head results":
        envoy.output = own.sum(-2) if bias is None else own.sum(-2) + bias
    else:
        envoy.output = held(own, stop)


def note(job: dict[str, Any], state: dict[str, Any], stop: dict[str, Any], value: Tensor) -> None:
    """Keep the sink values and logits that a value gives."""
    if stop["dims"] and (state["length"] == job["prompt"] or stop["new_phi"]):
        phi = job["kernels"]["sink_value"](value, stop["dims"])
        known = state["phi"].get(stop["layer"])
        state["phi"][stop["layer"]] = phi if known is None else torch.cat([known, phi], -1)
    if stop["logits"]:
        own = value.chunk(job["passes"])[0]
        logits = job["kernels"]["softcapped"](own, job["unembed"]["cap"])
        rows = logits[:, job["shift"] :] if job["generate"] is None else logits[:, -1:].float()
        state["logits"].append(rows.detach().cpu())
        gradients(job, state, rows)


def gradients(job: dict[str, Any], state: dict[str, Any], logits: Tensor) -> None:
    """Go back from the logits to the values whose gradients are asked for."""
    for target in job["targets"]:
        mine = [each for each in state["watched"] if each[0]["node"] == target["node"]]
        program = job["programs"][target["program"]]
        total = job["kernels"]["play"](job, program, {"value": logits.float()}, state, job["shift"])
        head = state["model"].get(job["unembed"]["head"])
        if head.weight.is_meta or not total.requires_grad:
            raise RuntimeError(
                "this server runs intervention code apart from the model, so no gradient comes "
                "back through it: a key that the server trusts has them, or run it locally"
            )
        nudges = [nudge for _, _, nudge in mine]
        grads = torch.autograd.grad(total, nudges, retain_graph=True, allow_unused=True)
        for (call, layer, nudge), grad in zip(mine, grads, strict=True):
            found = torch.zeros_like(nudge) if grad is None else grad
            if call["axes"][0] is not None:
                found = found.narrow(call["axes"][0], *call["keep"])
            state["pieces"].append([call["node"], layer, call["first"], found.detach().cpu()])


def shown(value: Tensor, stop: dict[str, Any]) -> Tensor:
    """A module's value, in the axes of its hook point."""
    if stop["shape"] == "b q (h d)":
        return value.unflatten(-1, (stop["heads"], -1))
    if stop["shape"] == "b h q d":
        return value.transpose(1, 2)
    return value[None] if stop["shape"] == "q d" else value


def held(value: Tensor, stop: dict[str, Any]) -> Tensor:
    """A hook point's value, in the axes of its module."""
    if stop["shape"] == "b q (h d)":
        return value.flatten(-2)
    if stop["shape"] == "b h q d":
        return value.transpose(1, 2)
    return value[0] if stop["shape"] == "q d" else value


def attention(
    model: Any,
    job: dict[str, Any],
    state: dict[str, Any],
    stop: dict[str, Any],
    phase: dict[str, Any],
) -> None:
    """Compute the rows that nodes need explicitly, and overwrite those that they changed."""
    call = getattr(model.get(stop["path"]).source, stop["call"])
    kernels = job["kernels"]
    if phase["explicit"]:
        query, key, value = call.inputs[0][1:4]
        query = turned(job, state, phase["rot_q"], query, stop["layer"])
        key = turned(job, state, phase["rot_k"], key, stop["layer"], state["length"])
    output = call.output
    z, changed = output[0], False
    for tile in phase["tiles"]:
        part = rows_of(model, job, state, stop, tile, query, key, value)
        if tile["keep"] is not None:
            start, stop_row = tile["keep"]
            inside = part[:, :, start - tile["start"] : stop_row - tile["start"]]
            new = kernels["attend"](inside, value)
            z = torch.cat([z[:, :start], new.to(z.dtype), z[:, stop_row:]], 1)
            changed = True
    z, written = visit(job, state, phase["z"], z, stop["layer"], {})
    if changed or written:
        call.output = (z, *output[1:])


def rows_of(
    model: Any,
    job: dict[str, Any],
    state: dict[str, Any],
    stop: dict[str, Any],
    tile: dict[str, Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
) -> Tensor:
    """The pattern of a tile of rows after its nodes."""
    kernels, layer = job["kernels"], stop["layer"]
    # A window has dropped its first keys; nodes see all tokens.
    gone = state["length"] - key.shape[2]
    first = state["length"] - query.shape[2]
    rows = slice(tile["start"], tile["stop"])
    scores = kernels["attention_scores"](query[:, :, rows], key, stop["scaling"])
    scores = in_front(scores, -1, gone, -torch.inf)
    positions = torch.arange(first + tile["start"], first + tile["stop"], device=scores.device)
    mask = seen(job, stop, tile, positions, scores.shape[-1])
    scores = kernels["add_mask"](scores, mask, positions)
    extras = {}
    if tile["values"]:
        path = stop["path"] + ".o_proj"
        weight, _ = projection(model.get(path), path, value, state)
        whole = in_front(value, 2, gone, 0.0)
        weight = head_weight(weight, query.shape[1]) * stop["scale"]
        extras = {"value": whole, "weight": weight}
    if tile["scores"]:
        before = blind(scores)
        scores, _ = visit(job, state, tile["scores"], scores, layer, extras)
        state["blind"].append([layer, (blind(scores) & ~before).any().cpu()])
    pattern = kernels["softmax"](scores, mask, learned_sinks(model, stop, scores))
    if tile["totals"]:
        extras = {**extras, "total": kernels["log_total"](scores)}
    pattern, _ = visit(job, state, tile["pattern"], pattern, layer, extras)
    if gone:
        state["lost"].append([layer, (pattern[..., :gone] != 0).any().cpu()])
    return pattern[..., gone:]


def learned_sinks(model: Any, stop: dict[str, Any], like: Tensor) -> Tensor | None:
    """The learned score of each head that joins the softmax; None in layers that have none."""
    if not stop["learned"]:
        return None
    found = model.get(stop["path"]).sinks
    if found.is_meta:
        raise RuntimeError(
            "layer " + str(stop["layer"]) + " has learned sinks in its softmax, and this server "
            "hides its weights: probe residuals there, or run it locally"
        )
    return found.to(like.device)


def seen(
    job: dict[str, Any], stop: dict[str, Any], tile: dict[str, Any], rows: Tensor, n_keys: int
) -> Tensor | None:
    """The mask of these rows, as `add_mask` takes it; None for a causal one."""
    if tile["mask"] is not None:
        return job["constants"][tile["mask"]].to(rows.device)
    if job["padding"] is None and stop["window"] is None:
        return None
    keys = torch.arange(n_keys, device=rows.device)
    mask = keys <= rows[:, None]
    if stop["window"] is not None:
        mask = mask & (keys > rows[:, None] - stop["window"])
    if job["padding"] is None:
        return mask
    real = job["padding"].to(rows.device)[:, None, None, :n_keys]
    return mask & real & real[..., rows].transpose(2, 3)


def in_front(value: Tensor, dim: int, count: int, fill: float) -> Tensor:
    """A value padded in front along one axis."""
    if not count:
        return value
    shape = [*value.shape]
    shape[dim] = count
    return torch.cat([value.new_full(shape, fill), value], dim)


def blind(scores: Tensor) -> Tensor:
    """The rows without any visible key."""
    return scores.isneginf().all(-1)


def turned(
    job: dict[str, Any],
    state: dict[str, Any],
    calls: list[Any],
    value: Tensor,
    layer: int,
    length: int = 0,
) -> Tensor:
    """Queries or keys after the nodes, which see tokens before heads, and keys of all tokens."""
    if not calls:
        return value
    gone = max(length - value.shape[2], 0)
    whole = in_front(value.transpose(1, 2), 1, gone, torch.nan).clone()
    return visit(job, state, calls, whole, layer, {})[0][:, gone:].transpose(1, 2)


def projection(
    envoy: Any, path: str, like: Tensor, state: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear module; in a sandbox, its outputs for unit vectors, cached."""
    if not envoy.weight.is_meta:
        return envoy.weight, envoy.bias
    if path not in state["weights"]:
        unit = torch.eye(envoy.weight.shape[1], dtype=like.dtype, device=like.device)
        bias = None if envoy.bias is None else envoy(unit[:1] * 0)[0]
        answers = envoy(unit) if bias is None else envoy(unit) - bias
        state["weights"][path] = (answers.T, bias)
    return state["weights"][path]


def head_weight(weight: Tensor, n_heads: int) -> Tensor:
    """The output projection split by head: head d_head d_model."""
    return weight.unflatten(1, (n_heads, -1)).permute(1, 2, 0)


def visit(
    job: dict[str, Any],
    state: dict[str, Any],
    calls: list[Any],
    value: Tensor,
    layer: int | None,
    extras: dict[str, Tensor],
    samples: int = 0,
) -> tuple[Tensor, bool]:
    """Apply nodes in turn; return the value after them, and whether an edit was among them."""
    changed = False
    for call in calls:
        writes = call["edit"] or call["program"] is None
        whole = value.clone() if writes else value  # a node may write in place
        given = part_of(whole, call, call["axes"], samples)
        # What a node makes of it was recorded in fp32, whatever the precision of the model.
        phi = state["phi"].get(layer)
        if phi is not None:
            phi = phi if call["new_phi"] else phi[:, : job["prompt"]]
            phi = part_of(phi, call, (None, 1))
        inputs = {"value": given.float(), "phi": phi}
        for name, extra in extras.items():
            inputs["attention " + name] = extra_part(name, extra, call).float()
        if call["second"] is not None:
            inputs["second"] = value.chunk(job["passes"])[call["second"]].float()
        state["dtype"] = given.dtype
        # NDIF runs jobs of half-precision models under autocast, which would round it again.
        with torch.autocast(value.device.type, enabled=False):
            if call["program"] is None:
                nudge = torch.zeros_like(given).requires_grad_(True)
                state["watched"].append([call, layer, nudge])
                result = given + nudge
            else:
                program = job["programs"][call["program"]]
                result = job["kernels"]["play"](job, program, inputs, state, call["shift"])
        if writes and given is whole:
            value, changed = result.to(given.dtype), True
        elif writes:
            given.copy_(result)
            value, changed = whole, True
        else:
            last = state["length"] - 1 - call["shift"]
            first = call["first"] if call["first"] is not None else last
            state["pieces"].append([call["node"], layer, first, result.detach().cpu()])
    return value, changed


def extra_part(name: str, extra: Tensor, call: dict[str, Any]) -> Tensor:
    """What else of attention a call sees; the weight is that of the layer, the same for all."""
    if name == "weight":
        return extra
    return part_of(extra, call, (None, 2) if name == "value" else (2, None))


def part_of(value: Tensor, call: dict[str, Any], axes: Any, samples: int = 0) -> Tensor:
    """The samples, rows and keys of a value that belong to the pass of a call."""
    index, of = call["share"]
    if of > 1:
        size = value.shape[samples] // of
        value = value.narrow(samples, index * size, size)
    query, key = axes
    if key is not None and call["shift"]:
        value = value.narrow(key, call["shift"], value.shape[key] - call["shift"])
    if query is not None and call["rows"] is not None:
        value = value.narrow(query, *call["rows"])
    return value
