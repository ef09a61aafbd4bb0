"""Let ndif 0.1.2 run without a GPU, and on loopback alone. Changes the installed files; a second
run changes nothing, for each is made from its first state, which is kept beside it.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(sys.argv[1])  # site-packages
RAY = ROOT / "ndif/services/ray"
CUDA = """

import torch as _torch  # vsink_interp: no GPU here
if not _torch.cuda.is_available():
    def _always(value):  # one function each: torch's compiler tells them apart by identity
        return lambda *args, **kwargs: value
    class _Cpu:
        total_memory, name = int(8e9), "cpu"
    for _name in ("synchronize", "set_device", "set_per_process_memory_fraction",
                  "reset_peak_memory_stats", "empty_cache"):
        setattr(_torch.cuda, _name, _always(None))
    for _name in ("memory_allocated", "max_memory_allocated", "memory_reserved",
                  "max_memory_reserved"):
        setattr(_torch.cuda, _name, _always(0))
    _torch.cuda.get_device_properties = _always(_Cpu)
    _torch.cuda.mem_get_info = _always((int(8e9), int(8e9)))
"""


def change(path: Path, pairs: dict[str, str], end: str = "") -> None:
    first = path.with_name(path.name + ".first")
    if not first.exists():
        shutil.copy2(path, first)
    text = first.read_text()
    for old, new in pairs.items():
        assert old in text, f"{path} has no {old!r}: is it ndif 0.1.2 and nnsight 0.8.1?"
        text = text.replace(old, new)
    path.write_text(text + end)


HEAD = "    ray start --head \\\n"
SMALL = "--num-gpus=1 --num-cpus=16 --object-store-memory=100000000"
change(RAY / "resources.py", {"    return int(total)\n": "    return int(total) or int(8e9)\n"})
change(
    RAY / "start.sh",
    {
        HEAD: f"{HEAD}        --node-ip-address=127.0.0.1 {SMALL} \\\n",
        "--dashboard-host=0.0.0.0": "--dashboard-host=127.0.0.1",
    },
)
START = "    expected = {int(gpu_id) for gpu_id in gpu_ids}\n"
change(
    RAY / "deployments/modeling/util.py",
    {START: "    if not _torch.cuda.is_available():\n        return\n" + START},
    CUDA,
)
DEVICE = 'placement = {"device": gpu_ids[0]'
change(
    RAY / "deployments/modeling/base.py",
    {DEVICE + "}": DEVICE + ' if torch.cuda.is_available() else "cpu"}'},
)
# nnsight 0.8.1 does not take this argument, which ndif 0.1.2 gives it.
change(
    RAY / "deployments/controller/cluster/evaluator.py",
    {
        "model_key, resolved, trust_remote_code=trust_remote_code": "model_key, resolved",
        "max_tp_size(model_key, trust_remote_code=trust_remote_code)": "max_tp_size(model_key)",
    },
)
HUB = "        from huggingface_hub import HfApi\n\n        try:\n            info = HfApi()"
LOCAL = "        from pathlib import Path\n\n        if Path(repo_id).is_dir():\n"
change(ROOT / "nnsight/modeling/huggingface.py", {HUB: f"{LOCAL}            return None\n\n{HUB}"})
# An environment that stands on another has two of some packages: the first is what is imported.
change(
    RAY / "deployments/controller/controller.py",
    {
        "packages[imp_name] = version": "packages.setdefault(imp_name, version)",
        "packages[dist_name] = version": "packages.setdefault(dist_name, version)",
    },
)
