"""Let ndif 0.1.2 run without a GPU. Changes the installed files; a second run changes nothing."""

import sys
from pathlib import Path

ROOT = Path(sys.argv[1])  # site-packages
RAY = ROOT / "ndif/services/ray"
CUDA = """

import torch as _torch  # vsink_interp: no GPU here
if not _torch.cuda.is_available():
    def _none(*args, **kwargs):
        return None
    def _zero(*args, **kwargs):
        return 0
    class _Cpu:
        total_memory, name = int(8e9), "cpu"
    for _name in ("synchronize", "set_device", "set_per_process_memory_fraction",
                  "reset_peak_memory_stats", "empty_cache"):
        setattr(_torch.cuda, _name, _none)
    for _name in ("memory_allocated", "max_memory_allocated", "memory_reserved",
                  "max_memory_reserved"):
        setattr(_torch.cuda, _name, _zero)
    _torch.cuda.get_device_properties = lambda *a, **k: _Cpu
    _torch.cuda.mem_get_info = lambda *a, **k: (int(8e9), int(8e9))
"""


def change(path, old, new):
    text = path.read_text()
    if new in text:
        return
    assert old in text, f"{path} has no {old!r}: is it ndif 0.1.2 and nnsight 0.8.1?"
    path.write_text(text.replace(old, new))


change(RAY / "resources.py", "    return int(total)\n", "    return int(total) or int(8e9)\n")
change(
    RAY / "start.sh",
    "    ray start --head \\\n",
    "    ray start --head --num-gpus=1 --num-cpus=8 --object-store-memory=200000000 \\\n",
)
change(RAY / "start.sh", "--dashboard-host=0.0.0.0", "--dashboard-host=127.0.0.1")
util = RAY / "deployments/modeling/util.py"
start = "    expected = {int(gpu_id) for gpu_id in gpu_ids}\n"
change(util, start, "    if not torch.cuda.is_available():\n        return\n" + start)
if CUDA not in util.read_text():
    util.write_text(util.read_text() + CUDA)
change(
    RAY / "deployments/modeling/base.py",
    'placement = {"device": gpu_ids[0]}',
    'placement = {"device": gpu_ids[0] if torch.cuda.is_available() else "cpu"}',
)
evaluator = RAY / "deployments/controller/cluster/evaluator.py"
change(evaluator, "model_key, resolved, trust_remote_code=trust_remote_code", "model_key, resolved")
change(
    evaluator,
    "Remotable.max_tp_size(model_key, trust_remote_code=trust_remote_code)",
    "Remotable.max_tp_size(model_key)",
)
hub = ROOT / "nnsight/modeling/huggingface.py"
old = "        from huggingface_hub import HfApi\n\n        try:\n            info = HfApi()"
new = (
    "        from pathlib import Path\n\n"
    "        if Path(repo_id).is_dir():\n            return None\n" + old
)
change(hub, old, new)
