"""Text decoders of transformers inside a tiny LLaVA: `make decoders` writes docs/decoders.md.

Right, refused, never wrong: what a decoder is offered for is compared with plain transformers in
eager attention: a knockout with a cut in transformers' own mask, the pattern with
`output_attentions`, what a layer adds with `output_hidden_states`. Takes long; the table is kept.
"""

import contextlib
import io
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import vsink_interp as vi
from vsink_interp.families import FAMILIES
from vsink_interp.families.tiny import TEXT, build
from vsink_interp.model.identities import failed_here, unlike_heads, unlike_logits

PAGE = Path(__file__).parent.parent / "docs" / "decoders.md"
TYPES = """
apertus arcee bailing_hybrid bamba bitnet bloom cohere cohere2 cwm dbrx deepseek_v2 deepseek_v3
diffllama doge dots1 ernie4_5 ernie4_5_moe exaone4 falcon falcon_h1 flex_olmo gemma gemma2
gemma3_text glm glm4 glm4_moe gpt_neox gpt_oss granite granite_swa granitemoe helium
hunyuan_v1_dense internlm3 jais2 jamba lfm2 llama mamba2 mimo_v2_flash minicpm3 minimax
ministral mistral mistral4 mixtral nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe
qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next seed_oss smollm3 stablelm starcoder2 vaultgemma
zamba2
""".split()
PROMPT = "what is the red disc on this ?"
NEAR = 1e-4
MLA = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
EXPERTS = {
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 16, "n_mamba_heads": 8, "mamba_d_state": 16,
    "mamba_expand": 2, "mamba_chunk_size": 16, "chunk_size": 16, "mamba_n_groups": 1,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma": {"head_dim": 16},
    "vaultgemma": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "cohere2": {"layer_types": ["full_attention"] * 4},
    "exaone4": {"layer_types": ["full_attention"] * 4, "sliding_window": None},
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "minicpm3": MLA,
    "mistral4": MLA,
    "granite": {"residual_multiplier": 0.22},
    "bailing_hybrid": {**MLA, **EXPERTS, "layer_group_size": 2, "head_dim": 16},
    "bamba": {"attn_layer_indices": [1, 3], **MAMBA},
    "dbrx": {"ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2}},
    "dots1": {"n_shared_experts": 1},
    "helium": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "chunk_size": 16},
    "ministral": {"head_dim": 16, "layer_types": ["full_attention"] * 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, **MAMBA},
}
HEAD = """# Decoders

<!-- Written by benchmarks/decoders.py (make decoders). -->

Many text decoders of transformers can stand inside a LLaVA. Each was put into a tiny one of random
weights, and what is offered there was compared with plain transformers in eager attention.

- **right**: a knockout equals a cut in transformers' own mask, the pattern is what
  `output_attentions` returns, and the parts of a layer add up to `output_hidden_states`.
- **in part**: so, for what is offered; the last column says what is refused.
- **refused**: it does not open, and says why.
- **not built**: transformers itself does not run a tiny one inside a LLaVA.

*Contributions of heads* are refused where something stands between what the pattern weighs and the
output projection (`Contribution`, `LogitAttribution`); *lenses* where the final norm and the
unembedding do not make the model's logits.

| decoder | | refused hook points, or why |
|---|---|---|
"""


def tiny(text: str) -> tuple[Any, Any]:
    """A tiny LLaVA around a decoder, in eager attention."""
    config, processor = next(form for form in FAMILIES if form.name == "LLaVA-1.5").tiny()  # ty: ignore[call-non-callable]
    sizes = {**TEXT, "vocab_size": config.get_text_config().vocab_size}
    known = vars(AutoConfig.for_model(text))
    experts = {name: value for name, value in EXPERTS.items() if name in known}
    config.text_config = AutoConfig.for_model(text, **{**sizes, **experts, **MORE.get(text, {})})
    return build(config, "eager"), processor


def image() -> Image.Image:
    """A small image of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (56, 70, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def wrong(lmm: vi.LMM) -> list[str]:
    """What is offered and differs from plain transformers."""
    encoding = lmm.encode(image(), PROMPT)
    model, found = lmm.hf_model, []
    with torch.no_grad():
        plain = model(**encoding.inputs, output_attentions=True, output_hidden_states=True)
    if not torch.equal(lmm.run(encoding).logits, plain.logits):
        found.append("empty graph")
    if "blocks.{layer}.attn.hook_pattern" in lmm.hooks:
        found += [name for name, check in INSIDE.items() if not check(lmm, encoding, plain)]
    if {f"blocks.{{layer}}.{name}" for name in ADDED} <= set(lmm.hooks):
        probes = [vi.probes.Activation(name) for name in ADDED]
        run = lmm.run(encoding, graph=vi.EditGraph(*probes))
        added = sum(run[probe].values for probe in probes)
        states = plain.hidden_states
        steps = [after - before for before, after in pairwise(states[:-1])]
        if apart(added[: len(steps)], torch.stack(steps)) > NEAR * states[-2].abs().max():
            found.append("parts of a layer")
    return found


ADDED = ("hook_attn_out", "hook_mlp_out")


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference."""
    return float((one - other).abs().max())


def knockout_is_a_cut(lmm: vi.LMM, encoding: vi.Encoding, plain: Any) -> bool:
    """A knockout against the mask of transformers' eager attention."""
    layers = lmm.layers_with("attn.hook_pattern")
    rows, columns = encoding.layout.mask("query"), encoding.layout.mask("image")
    edges = (rows[:, :, None] & columns[:, None])[:, None]

    def cut(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        del module
        mask = kwargs["attention_mask"]
        hidden = mask.masked_fill(edges, torch.finfo(mask.dtype).min)
        return args, {**kwargs, "attention_mask": hidden}

    blocks = [lmm.hooked.layers[layer] for layer in layers]
    attention = [getattr(one, "self_attn", None) or one.attention for one in blocks]
    handles = [one.register_forward_pre_hook(cut, with_kwargs=True) for one in attention]
    try:
        with torch.no_grad():
            theirs = lmm.hf_model(**encoding.inputs).logits
    finally:
        for handle in handles:
            handle.remove()
    run = lmm.run(encoding, graph=vi.Knockout("image -> query", layers))
    scale = plain.logits.std()
    return apart(theirs, plain.logits) > 1e-3 * scale and apart(run.logits, theirs) < NEAR * scale


def pattern_is_theirs(lmm: vi.LMM, encoding: vi.Encoding, plain: Any) -> bool:
    """The pattern against `output_attentions`, which leaves learned sinks out in some models."""
    layers = lmm.layers_with("attn.hook_pattern")
    probe = vi.probes.Activation("attn.hook_pattern", layers)
    theirs = [one for one in plain.attentions or () if one is not None]
    if len(theirs) != len(layers):
        return True  # some models return none; the knockout says more
    ours = lmm.run(encoding, graph=probe)[probe].values
    theirs = torch.stack(theirs)
    if lmm.hooked.learned_sinks and apart(theirs.sum(-1), torch.ones(1)) < 1e-5:
        ours = ours / ours.sum(-1, keepdim=True)
    return apart(ours, theirs) < NEAR


INSIDE = {"knockout": knockout_is_a_cut, "pattern": pattern_is_theirs}


def row(text: str) -> str:
    """One line of the table."""
    try:
        model, processor = tiny(text)
        inputs = processor(text=["<image> what is this"], images=[image()], return_tensors="pt")
        with torch.no_grad():
            model(**inputs)
    except Exception as error:  # noqa: BLE001 (whatever transformers raises: it is no subject)
        return f"| `{text}` | not built | {type(error).__name__}: {first_line(error)} |"
    try:
        lmm = vi.LMM(model, processor, check=False)
        lmm.hooked.failed |= failed_here(lmm)
        lmm.hooked.unlike_heads, lmm.hooked.unlike_logits = unlike_heads(lmm), unlike_logits(lmm)
    except vi.CapabilityError as error:
        return f"| `{text}` | refused | {first_line(error)} |"
    except Exception as error:  # noqa: BLE001 (an error that is not ours is what is looked for)
        return f"| `{text}` | **ERROR** | {type(error).__name__}: {first_line(error)} |"
    try:
        differs = wrong(lmm)
    except Exception as error:  # noqa: BLE001 (so is one in a run)
        differs = [f"{type(error).__name__}: {first_line(error)}"]
    if differs:
        return f"| `{text}` | **WRONG** | {', '.join(differs)} |"
    offered = {point.template for point in vi.HOOKS if "norm.hook_out" not in point.name}
    names = [name.removeprefix("blocks.{layer}.") for name in sorted(offered - set(lmm.hooks))]
    names += ["*contributions of heads*"] * bool(lmm.hooked.unlike_heads)
    names += ["*lenses*"] * bool(lmm.hooked.unlike_logits)
    return f"| `{text}` | {'in part' if names else 'right'} | {', '.join(names)} |"


def first_line(error: Exception) -> str:
    """The first line of a message, as a cell of a table holds it."""
    line = (str(error).splitlines() or [""])[0].replace("|", "/")
    return line.split(". A family is")[0]


def say(line: str) -> None:
    """One line on the terminal."""
    sys.stderr.write(line + "\n")


def main() -> int:
    """Write the page; the exit status is 1 where something is wrong."""
    warnings.simplefilter("ignore")
    wanted = sys.argv[1:] or [name for name in TYPES if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    rows = []
    for text in wanted:
        with contextlib.redirect_stdout(io.StringIO()):
            rows.append(row(text))
        say(rows[-1])
    if not sys.argv[1:]:
        PAGE.write_text(HEAD + "\n".join(rows) + "\n")
    return int(any("**" in line for line in rows))


if __name__ == "__main__":
    sys.exit(main())
