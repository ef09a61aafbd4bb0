"""What we use of nnsight and transformers beyond what they promise: one test names each.

The list is docs/decisions/0016-what-is-used-beyond-public-interfaces.md. What fails here names the
part that a new release has moved.
"""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

RECORD = "docs/decisions/0016-what-is-used-beyond-public-interfaces.md"
PARTS = {
    "nnsight.intervention.envoy": {"Envoy": ["__init__"]},
    "nnsight.intervention.interleaver": {"Interleaver": ["cancel", "__enter__", "__exit__"]},
    "nnsight.tracing.backend": {"Backend": ["__call__"]},
    "nnsight.intervention.backends.remote": {
        "RemoteBackend": ["_serialize", "_post", "submit"],
    },
    "nnsight.schema.request": {"RequestModel": ["serialize", "metadata"]},
    "nnsight.schema.response": {"ResponseModel": ["model_validate_json"], "Status": []},
    "nnsight.modeling.huggingface": {"_ID_CACHE": ["setdefault"]},
    "nnsight": {
        "TransformersModel": ["to_model_key", "_remoteable_get_env"], "CONFIG": ["API", "APP"],
    },
    "transformers.modeling_utils": {"ALL_ATTENTION_FUNCTIONS": ["get_interface"]},
    "transformers.masking_utils": {
        "ALL_MASK_ATTENTION_FUNCTIONS": ["register", "_global_mapping"],
        "eager_mask": [], "sdpa_mask": [], "create_masks_for_generate": [],
    },
    "transformers.cache_utils": {"DynamicLayer": ["lazy_initialization", "get_seq_length"]},
    "transformers": {
        "PreTrainedModel": [
            "_prepare_position_ids_for_generation", "_supports_logits_to_keep",
            "_update_model_kwargs_for_generation", "prepare_inputs_for_generation",
        ],
        "DynamicCache": [],
    },
    "transformers.models.auto.processing_auto": {"PROCESSOR_MAPPING_NAMES": []},
}  # fmt: skip
NAMES = [
    (module, name, member)
    for module, names in PARTS.items()
    for name, members in names.items()
    for member in [None, *members]
]


@pytest.mark.parametrize(
    ("module", "name", "member"), NAMES, ids=[".".join(filter(None, n)) for n in NAMES]
)
def test_it_is_there(module, name, member):
    if name == "PreTrainedModel":  # generation is mixed in by the classes that generate
        holder = import_module("transformers").LlavaForConditionalGeneration
    else:
        holder = getattr(import_module(module), name)
    assert member is None or hasattr(holder, member)


@pytest.mark.parametrize(
    ("module", "name", "method", "arguments"),
    [
        ("nnsight.intervention.envoy", "Envoy", "__init__", {"path", "interleaver"}),
        ("nnsight.intervention.envoy", "Envoy", "trace", {"fn", "backend"}),
        ("nnsight.tracing.backend", "Backend", "__call__", {"tracer"}),
        ("nnsight.intervention.backends.remote", "RemoteBackend", "_post", {"request", "blob"}),
        ("nnsight.intervention.backends.remote", "RemoteBackend", "_serialize", {"tracer"}),
        (
            "nnsight.intervention.backends.remote", "RemoteBackend", "__init__",
            {"model_key", "host", "env", "blocking"},
        ),
        (
            "transformers", "LlavaForConditionalGeneration", "_update_model_kwargs_for_generation",
            {"outputs", "model_kwargs", "is_encoder_decoder"},
        ),
        (
            "transformers", "LlavaForConditionalGeneration", "prepare_inputs_for_generation",
            {"is_first_iteration"},
        ),
    ],
)  # fmt: skip
def test_it_takes_what_we_give(module, name, method, arguments):
    taken = inspect.signature(getattr(getattr(import_module(module), name), method)).parameters
    assert arguments <= taken.keys()


def test_what_only_an_object_has():
    from nnsight.intervention.backends.remote import RemoteBackend
    from nnsight.intervention.interleaver import Interleaver
    from transformers import DynamicCache

    assert vars(Interleaver()).keys() >= {"interleaving", "parked", "mediators"}
    backend = vars(RemoteBackend("key", host="http://127.0.0.1:1", blocking=False))
    assert backend.keys() >= {"api_key", "display", "job_id", "compress", "host"}
    assert DynamicCache().layers == []


def test_an_interleaver_still_switches_by_one_attribute():
    """`OwnThread` puts a property in its place; anything else would go unseen."""
    from nnsight.intervention.interleaver import Interleaver

    source = inspect.getsource(Interleaver)
    assert len(re.findall(r"self\.interleaving = (True|False)", source)) >= 3


def test_the_record_names_them():
    record = (Path(__file__).parents[1] / RECORD).read_text()
    named = {name for names in PARTS.values() for name in names} - {"CONFIG", "PreTrainedModel"}
    assert [name for name in named if name not in record] == []
