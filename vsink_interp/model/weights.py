"""Loading weights: folders, repositories, devices and precision, as passed to transformers."""

import ssl
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import CapabilityError, InputError, UnreachableError, unknown

HUB_OPTIONS = frozenset(
    "revision token cache_dir local_files_only trust_remote_code subfolder force_download".split()
)
"""What `from_pretrained` hands to the processor as well."""

SHIPPED = ("toy", "small")
"""Names of models that come with the package."""

PATIENCE = 5.0
"""How many seconds the Hub has to answer; transformers alone asks file by file, for minutes."""

_SHORT = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}
_KNOWN = ("auto", "bfloat16", "float16", "float32", *_SHORT)


class Shipped(NamedTuple):
    """A model that comes with the package: its folder, and what it is called."""

    folder: Path
    name: str


def shipped(source: str | Path) -> Shipped | None:
    """The model of the package that a name means: `toy`, `small`, `small/FORM`; else None.

    A folder of that name comes first.

    **Raises:** `CapabilityError` if the small LMM's packages are not installed; `InputError` for a
    form that does not ship.
    """
    kind, _, form = str(source).partition("/")
    if not isinstance(source, str) or kind not in SHIPPED or Path(source).is_dir():
        return None
    if source == "toy":
        from ..toy import weights_dir

        return Shipped(weights_dir, "toy")
    if kind == "toy":
        return None
    from ..small.model import built, default_form

    chosen = form or default_form()
    return Shipped(built(chosen), f"small ({chosen})")


def place_of(source: str | Path) -> str:
    """The folder or the repository that is meant.

    **Raises:** `InputError` for a URL, and for a folder that is not there.
    """
    text = str(source)
    if "://" in text:
        parts = text.split("://", 1)[1].split("/")
        hint = f": {'/'.join(parts[1:3])!r}" if "huggingface" in parts[0] else ""
        raise InputError(
            f"{text!r} is not fetched: download it first and name the folder, or name the "
            f"repository of the Hub{hint}"
        )
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise InputError(
                f"{folder} holds no config.json, so no model was saved there; it holds: "
                f"{', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"
            )
        return str(folder)
    named = isinstance(source, Path) or text.startswith((".", "~", "/")) or text.count("/") > 1
    if named or "\\" in text:
        raise InputError(
            f"there is no folder {folder} (looked for it from {Path.cwd()}); name one that holds "
            "config.json, or a repository of the Hub such as 'llava-hf/llava-1.5-7b-hf'"
        )
    return text


def reachable(repo: str, hub: Mapping[str, Any]) -> str:
    """What can be loaded now: the repository, or without network what was downloaded of it before.

    With `local_files_only` transformers still asks the Hub; a folder it reads without.

    **Raises:** `UnreachableError` within seconds, if nothing was and the Hub does not answer.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if Path(repo).is_dir():
        return repo
    switched_off = constants.HF_HUB_OFFLINE or bool(hub.get("local_files_only"))
    if not switched_off and _answers(constants.ENDPOINT):
        return repo
    known = try_to_load_from_cache(
        repo, "config.json", cache_dir=hub.get("cache_dir"), revision=hub.get("revision")
    )
    if isinstance(known, str):
        return str(Path(known).parent)
    why = "the network is switched off (HF_HUB_OFFLINE or local_files_only)"
    raise UnreachableError(
        f"{repo!r} is no folder here and was not downloaded before, and "
        + (why if switched_off else f"{constants.ENDPOINT} does not answer")
        + f"; run `hf download {repo}` where there is a network, or name a folder"
    )


def _answers(address: str) -> bool:
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return True  # it said no, so it is there
    except OSError as error:
        # Certificates that Python does not know, others do.
        return isinstance(getattr(error, "reason", None), ssl.SSLError)
    return True


def model_options(device: Any, hf_kwargs: dict[str, Any]) -> dict[str, Any]:
    """What transformers is given to load a model with.

    **Raises:** `InputError` for a precision that is unknown or a device said twice,
    `CapabilityError` for what needs a package that is not installed.
    """
    options = dict(hf_kwargs)
    for name in {"dtype", "torch_dtype"} & options.keys():
        options[name] = _precision(options[name])
    if device is not None and "device_map" in options:
        raise InputError("device= puts the model on one device and device_map= spreads it; say one")
    if device is not None:
        _check_device(device)
    if options.get("quantization_config") is not None and device is not None:
        options["device_map"] = {"": device}  # quantised weights are made where they stay
    if options.get("device_map") is not None and find_spec("accelerate") is None:
        raise CapabilityError(
            "device_map and quantised weights need accelerate: pip install "
            "'vsink-interp[accelerate]'; device='cuda' puts a model on one device without it"
        )
    return options


def _precision(dtype: Any) -> Any:
    if not isinstance(dtype, str):
        return dtype
    name = _SHORT.get(dtype, dtype).removeprefix("torch.")
    if name != "auto" and not isinstance(getattr(torch, name, None), torch.dtype):
        raise InputError(unknown("dtype", dtype, _KNOWN))
    return name


def _check_device(device: Any) -> None:
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"device={device!r} is none of torch's: 'cuda', 'cuda:1', 'cpu', 'mps'"
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise CapabilityError(
            f"device={device!r}: this torch ({torch.__version__}) sees no GPU; see nvidia-smi, and "
            "install the torch for your driver from pytorch.org"
        )


def moved(hf_model: Any, *args: Any, **kwargs: Any) -> None:
    """Move a model as torch does, but for rotary frequencies, which stay in their precision.

    So they are in a model that is loaded in half precision; rounded ones turn far tokens wrong, and
    complex ones (Llama 4's tower) would lose their imaginary part.
    """
    before = {
        name: buffer.clone()
        for name, buffer in hf_model.named_buffers()
        if name.endswith("inv_freq") or buffer.is_complex()
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Casting complex values to real")
        hf_model.to(*args, **kwargs)
    for name, exact in before.items():
        path, _, own = name.rpartition(".")
        module = hf_model.get_submodule(path)
        setattr(module, own, exact.to(getattr(module, own).device))
