"""Devices that are not there: tensors that compute on the CPU and say that they lie elsewhere.

Each stands for one on an accelerator. An operation that is given tensors of two devices fails as it
would there (a single number on the CPU may join any), and so does one that is given plain tensors
of the CPU beside them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretended")
FIRST, SECOND = torch.device("pretended:0"), torch.device("pretended:1")
aten = torch.ops.aten


class Placed(Tensor):
    """A tensor that says that it lies on a device."""

    elem: Tensor

    @staticmethod
    def __new__(cls, elem: Tensor, device: torch.device) -> "Placed":
        made = Tensor._make_wrapper_subclass(
            cls, elem.shape, strides=elem.stride(), storage_offset=elem.storage_offset(),
            dtype=elem.dtype, device=device, requires_grad=False,
        )  # fmt: skip
        made.elem = elem
        return made

    def __repr__(self) -> str:
        return f"Placed({self.elem!r}, {self.device})"

    def tolist(self) -> Any:
        """The numbers: torch refuses them of a subclass."""
        return self.elem.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(func, args, kwargs or {})


def place(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor moved to a device."""
    plain = tensor.elem if isinstance(tensor, Placed) else tensor
    return plain.clone() if device.type == "cpu" else Placed(plain.clone(), device)


def carried_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU, and let the result lie where the tensors did."""
    flat, _ = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, Tensor)]
    asked = kwargs.get("device")
    if func is aten._to_copy.default or (func is aten.copy_.default):
        target = tensors[0].device if func is aten.copy_.default else (asked or tensors[0].device)
    else:
        # Indices may lie on the CPU, there too.
        given = tensors[:1] if func is aten.index.Tensor else tensors
        homes = {x.device for x in given if x.ndim or x.device.type != "cpu"}
        if len(homes) > 1 and func is not aten.lift_fresh.default:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found two: {homes}, in {func}"
            )
        target = asked or next(iter(homes), torch.device("cpu"))
    target = torch.device(target)
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    kwargs = {k: v for k, v in kwargs.items() if k != "pin_memory"}
    plain_args, plain_kwargs = tree_map(
        lambda x: x.elem if isinstance(x, Placed) else x, (args, kwargs)
    )
    result = func(*plain_args, **plain_kwargs)
    if func._schema.is_mutable and tensors and not func._schema.name.endswith("out"):
        known = {id(x.elem): x for x in tensors if isinstance(x, Placed)}
        return tree_map(lambda x: known.get(id(x), x) if isinstance(x, Tensor) else x, result)
    if target.type == "cpu":
        return result
    return tree_map(lambda x: Placed(x, target) if isinstance(x, Tensor) else x, result)


class Accelerators(TorchDispatchMode):
    """While it is entered, tensors can be made on, and moved to, devices that are not there.

    `waited` holds the devices that were waited for.
    """

    def __enter__(self) -> "Accelerators":
        """Take torch's waiting over: there is nothing to wait for."""
        self.waited: set[torch.device] = set()
        self._synchronize = torch.accelerator.synchronize
        torch.accelerator.synchronize = lambda device: self.waited.add(torch.device(device))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        """Give it back."""
        torch.accelerator.synchronize = self._synchronize
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return carried_out(func, args, kwargs or {})


def moved(model: Any, device: torch.device) -> Any:
    """A model with its weights on a device."""
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                made = torch.nn.Parameter(place(weight.detach(), device), requires_grad=False)
                module._parameters[name] = made
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = place(buffer, device)
    return model


# What torch makes behind the back of modes, as in torch.tensor(..., device=...).
_library = torch.library.Library("aten", "IMPL")


@torch.library.impl(_library, "empty.memory_format", "PrivateUse1")
def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):  # noqa: ARG001
    return Placed(torch.empty(size, dtype=dtype), torch.device(device))


@torch.library.impl(_library, "empty_strided", "PrivateUse1")
def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):  # noqa: ARG001
    return Placed(torch.empty_strided(size, stride, dtype=dtype), torch.device(device))


@torch.library.impl(_library, "_copy_from", "PrivateUse1")
def _copy_from(source, target, non_blocking=False):  # noqa: ARG001
    target.elem.copy_(source.elem if isinstance(source, Placed) else source)
    return target
