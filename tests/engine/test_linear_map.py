"""What a linear module does is read off the module, whatever it keeps as its weight."""

import pytest
import torch
from torch import nn

import vsink_interp as vi
from tests import nodes
from vsink_interp.engine.linear_map import linear_map

WIDE, OUT = 12, 8
LIKE = torch.zeros(0)


class Int8(nn.Linear):
    """As bitsandbytes: whole numbers with a scale a row, and inputs rounded to 8 bits as well."""

    def __init__(self, plain):
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None)
        self.scale = plain.weight.detach().abs().amax(1, keepdim=True) / 127
        whole = (plain.weight.detach() / self.scale).round().to(torch.int8)
        self.weight, self.bias = nn.Parameter(whole, requires_grad=False), plain.bias

    def forward(self, x):
        unit = x.abs().amax(-1, keepdim=True) / 127
        rounded = (x / unit).round() * unit
        return nn.functional.linear(rounded, self.weight * self.scale, self.bias)


def plain(bias=True):
    torch.manual_seed(0)
    return nn.Linear(WIDE, OUT, bias=bias)


def lora(bias=True):
    from peft import LoraConfig, inject_adapter_in_model

    inside = nn.Sequential(plain(bias))
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    return inject_adapter_in_model(config, inside)[0].eval()


def offloaded(bias=True):
    from accelerate import cpu_offload

    return cpu_offload(plain(bias), execution_device=torch.device("cpu"))


def hooked(bias=True):
    module = plain(bias)
    module.register_forward_hook(lambda *seen: 2 * seen[2])
    return module


def overwritten(bias=True):
    module = plain(bias)
    own = module.forward
    module.forward = lambda x: 2 * own(x)
    return module


def normed(bias=True):
    return nn.utils.parametrizations.weight_norm(plain(bias))


class Halves(torch.Tensor):
    """As torchao: the weight of a plain `Linear` is a tensor that knows how it is multiplied."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            twice = 2 * args[1].as_subclass(torch.Tensor)
            return nn.functional.linear(args[0], twice, *args[2:])
        return super().__torch_function__(func, types, args, kwargs or {})


def packed(bias=True):
    module = plain(bias)
    half = (module.weight.detach() / 2).as_subclass(Halves)
    module.weight = nn.Parameter(half, requires_grad=False)
    return module


def _adapted(module):
    base, a, b = module.base_layer, module.lora_A["default"], module.lora_B["default"]
    return base.weight + 6 / 2 * b.weight @ a.weight


KINDS = {
    "plain": (plain, lambda module: module.weight, 1.0, 0.0),
    "LoRA": (lora, _adapted, 1.0, 1e-5),
    "offloaded": (offloaded, lambda _: plain().weight, 1.0, 1e-6),
    "behind a hook": (hooked, lambda module: 2 * module.weight, 2.0, 1e-5),
    "written over": (overwritten, lambda module: 2 * module.weight, 2.0, 1e-5),
    "parametrised": (normed, lambda _: plain().weight, 1.0, 1e-5),
    "8 bits": (lambda bias=True: Int8(plain(bias)), lambda m: m.weight * m.scale, 1.0, 1e-5),
    "a tensor of its own": (packed, lambda _: plain().weight, 1.0, 1e-6),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_weight_and_bias_are_what_the_module_does(kind, bias):
    make, weight, times, near = KINDS[kind]
    module = make(bias)
    found = linear_map(module, WIDE, LIKE)
    assert found.weight.shape == (OUT, WIDE)
    assert float(found.weight.detach().abs().max()) > 0.1
    assert nodes.apart(found.weight, weight(module)) <= near
    assert (found.bias is not None) == bias
    if bias:
        assert nodes.apart(found.bias, times * plain().bias) <= near
    assert found.exact == (kind == "plain")


def test_heads_are_rows_of_the_weight():
    found = linear_map(plain(), WIDE, LIKE).by_head(3)
    assert found.shape == (3, 4, OUT)
    assert torch.equal(found[1, 2], plain().weight[:, 6])


def test_what_is_not_linear_is_refused():
    bent = nn.Sequential(plain(), nn.ReLU())
    with pytest.raises(vi.CapabilityError, match=r"Sequential is not a linear map"):
        linear_map(bent, WIDE, LIKE)


def test_weights_that_are_not_here_are_refused_and_never_read():
    with pytest.raises(vi.CapabilityError, match="not on this machine"):
        linear_map(plain().to("meta"), WIDE, LIKE)
