"""What a run asks of the machine: tensor operations, host synchronisations, sizes of tensors."""

from collections import Counter

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FREE = ("_unsafe_view.default", "promote_types.default", "detach.default", "alias.default")
"""Neither compute nor copy, and are not marked as views."""

SYNCS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")


class Counting(TorchDispatchMode):
    """Counts operations that compute or copy; views cost nothing on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()
        self.sizes: Counter[int] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.__name__
        if not func.is_view and name not in FREE:
            self.ops[name] += 1
            self.sizes.update(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))
        if name.startswith(SYNCS) or _by_mask(name, args):
            self.syncs[name] += 1
        return out


def _by_mask(name, args) -> bool:
    """Indexing by a boolean mask waits for the device to say how many entries there are."""
    if not name.startswith(("index.", "index_put")):
        return False
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1])


def counted(run) -> Counting:
    with Counting() as mode:
        run()
    return mode
