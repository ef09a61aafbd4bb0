"""Options of `generate` against plain transformers, and what is refused."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    TextStreamer,
)

import vsink_interp as vi
from tests import tiny
from vsink_interp.model.generation import options
from vsink_interp.probes import Logits, Pattern, SegmentMass

PROBES = vi.EditGraph(Pattern(), SegmentMass(), Logits())
N = 7


def plain(lmm, encoding, **options):
    given = {"max_new_tokens": N, "do_sample": False, **options}
    return lmm.hf_model.generate(
        **encoding.inputs, **given, return_dict_in_generate=True, output_logits=True
    )


def same(run, wanted):
    assert torch.equal(run.ids, wanted.sequences)
    assert torch.equal(run.logits, torch.stack(wanted.logits, 1))


class NeverTwice(LogitsProcessor):
    """Each token once: state-free, so that it can be given twice."""

    def __call__(self, input_ids, scores):
        return scores.scatter(1, input_ids, -torch.inf)


class AfterThree(StoppingCriteria):
    """The first sample ends after three tokens, the others go on."""

    def __call__(self, input_ids, scores, **kwargs):
        del scores, kwargs
        ended = torch.zeros(len(input_ids), dtype=torch.bool)
        ended[0] = input_ids.shape[1] >= tiny.batch().layout.length + 3
        return ended


GREEDY = {
    "repetition penalty": {"repetition_penalty": 1.7},
    "no repeated pair": {"no_repeat_ngram_size": 2},
    "least length": {"min_new_tokens": 5, "eos_token_id": [40, 41, 43, 50]},
    "forbidden words": {"bad_words_ids": [[50], [43], [22, 36]]},
    "bias": {"sequence_bias": {(30,): 4.0}},
    "forced end": {"forced_eos_token_id": 9},
    "processor": {"logits_processor": [NeverTwice()]},
    "renormalised": {"renormalize_logits": True},
    "longer": {"max_new_tokens": 12},
}


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_options_are_those_of_generate(name):
    lmm, encoding, options = tiny.lmm(), tiny.batch(), {"max_new_tokens": N, **GREEDY[name]}
    same(lmm.generate(encoding, **options), plain(lmm, encoding, **options))


SAMPLED = {
    "plain": {},
    "cold": {"temperature": 0.3},
    "top k": {"top_k": 4},
    "top p": {"top_p": 0.6, "top_k": 0},
    "min p": {"min_p": 0.2},
    "typical": {"typical_p": 0.4},
}


@pytest.mark.parametrize(
    ("name", "graph"), [*((name, None) for name in SAMPLED), ("plain", PROBES)]
)
def test_sampling_is_that_of_generate(name, graph):
    lmm, encoding = tiny.lmm(), tiny.batch()
    options = {"do_sample": True, **SAMPLED[name]}
    torch.manual_seed(11)
    wanted = plain(lmm, encoding, **options)
    torch.manual_seed(11)
    same(lmm.generate(encoding, graph=graph, max_new_tokens=N, **options), wanted)
    same(lmm.generate(encoding, graph=graph, max_new_tokens=N, seed=11, **options), wanted)
    torch.manual_seed(12)
    assert not torch.equal(plain(lmm, encoding, **options).sequences, wanted.sequences)


def test_a_seed_leaves_random_numbers_as_they_were():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    tiny.lmm().generate(tiny.encode(), max_new_tokens=3, do_sample=True, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(vi.LayoutError):
        tiny.lmm().generate(tiny.encode("text"), graph=vi.VAR(), do_sample=True, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [{}, {"generation_config": GenerationConfig(pad_token_id=0)}])
def test_a_seed_for_a_greedy_answer_is_refused(options):
    with pytest.raises(vi.InputError, match="add do_sample=True"):
        tiny.lmm().generate(tiny.encode(), max_new_tokens=3, seed=1, **options)


def test_what_the_models_own_configuration_says_of_sampling_is_overruled():
    lmm = tiny.fresh()
    greedy = lmm.generate(tiny.encode(), max_new_tokens=N).ids
    lmm.hf_model.generation_config.do_sample = True
    for more in ({}, {"generation_config": None}):
        given = {"max_new_tokens": N, **more}
        with pytest.raises(vi.InputError, match="seed=1 is for sampling"):
            lmm.generate(tiny.encode(), seed=1, **given)
        assert torch.equal(lmm.generate(tiny.encode(), **given).ids, greedy)


def test_a_seed_reaches_a_configuration_that_samples():
    config = GenerationConfig(do_sample=True, pad_token_id=0, max_new_tokens=5)
    one, same_again, other = (
        tiny.lmm().generate(tiny.encode(), seed=seed, generation_config=config).ids
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same_again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("many", [False, True])
def test_end_tokens_are_those_of_generate(many):
    lmm, encoding = tiny.lmm(), tiny.batch()
    free = lmm.generate(encoding, max_new_tokens=N)
    ends = [int(free.generated[2, 1]), int(free.generated[0, 3])]
    given = ends if many else ends[0]
    run = lmm.generate(encoding, max_new_tokens=N, eos_token_id=given)
    same(run, plain(lmm, encoding, eos_token_id=given))
    lengths = run.layout.mask("generated").sum(-1).tolist()
    for row, length in zip(free.generated.tolist(), lengths, strict=True):
        places = [row.index(end) for end in (ends if many else ends[:1]) if end in row]
        assert length == min([place + 1 for place in places] or [N])
    assert min(lengths) == 2
    assert len(set(lengths)) > 1 + many


def letters() -> PreTrainedTokenizerFast:
    """One letter a token: transformers finds no stop strings in a vocabulary of whole words."""
    vocabulary = {chr(ord("A") + i): i for i in range(len(tiny.SPECIAL) + len(tiny.WORDS))}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


@pytest.mark.parametrize(
    ("where", "graph"), [("call", None), ("call", PROBES), ("configuration", None)]
)
def test_stop_strings_are_those_of_generate(where, graph):
    """The end token is one that no answer comes to; it makes transformers fill answers up."""
    lmm, encoding = tiny.lmm(), tiny.batch()
    free = lmm.generate(encoding, max_new_tokens=N)
    end = int(free.generated[2, 2])
    given = {"stop_strings": letters().decode([end]), "eos_token_id": 2}
    wanted = plain(lmm, encoding, tokenizer=letters(), **given)
    if where == "configuration":
        own = GenerationConfig(**lmm.hf_model.generation_config.to_diff_dict() | given)
        given = {"generation_config": own}
    run = lmm.generate(encoding, graph=graph, max_new_tokens=N, tokenizer=letters(), **given)
    same(run, wanted)
    lengths = run.layout.mask("generated").sum(-1).tolist()
    assert lengths[2] <= 3
    assert max(lengths) == N
    for row, length in zip(free.generated.tolist(), lengths, strict=True):
        assert length == (row.index(end) + 1 if end in row else N)


def test_a_stopping_criterion_is_that_of_generate():
    lmm, encoding = tiny.lmm(), tiny.batch()
    given = {"stopping_criteria": [AfterThree()], "eos_token_id": 2}
    run = lmm.generate(encoding, max_new_tokens=N, **given)
    same(run, plain(lmm, encoding, **given))
    assert run.layout.mask("generated").sum(-1).tolist() == [3, N, N, N, N]


@pytest.mark.parametrize("graph", [None, PROBES])
@pytest.mark.parametrize("which", ["criterion", "string"])
def test_what_fills_up_a_shorter_answer_may_be_the_end_token(which, graph):
    """Answers are cut by a stop rule in a batch whose padding is the end token, as in Qwen2-VL."""
    lmm, encoding = tiny.lmm(), tiny.batch()
    free = lmm.generate(encoding, max_new_tokens=N).generated
    cut, end = int(free[2, 2]), int(free[0, 4])
    given = {"pad_token_id": end, "eos_token_id": end}
    if which == "string":
        given |= {"stop_strings": letters().decode([cut]), "tokenizer": letters()}
        ends = {cut, end}
    else:
        given |= {"stopping_criteria": [AfterThree()]}
        ends = {end}
    run = lmm.generate(encoding, graph=graph, max_new_tokens=N, **given)
    same(run, plain(lmm, encoding, **given))
    lengths = run.layout.mask("generated").sum(-1).tolist()
    expected = [
        next((at + 1 for at, id_ in enumerate(row) if id_ in ends), N) for row in free.tolist()
    ]
    if which == "criterion":
        expected[0] = min(expected[0], 3)
    assert lengths == expected
    assert len(set(lengths)) > 1
    assert min(lengths) < run.generated.shape[1]


def test_padding_that_was_meant_is_no_end():
    """Without an end there is nothing to fill up: token 0 is an answer like any other."""
    lmm = tiny.fresh()
    lmm.hf_model.generation_config.suppress_tokens = list(range(1, 69))
    run = lmm.generate(tiny.encode(), max_new_tokens=4)
    assert run.generated.tolist() == [[0, 0, 0, 0]]
    assert int(run.layout.mask("generated").sum()) == 4


@pytest.mark.parametrize("given", [{"stop_strings": "A"}, {"stopping_criteria": [AfterThree()]}])
def test_answers_that_nothing_would_fill_up_are_refused(given):
    with pytest.raises(vi.CapabilityError, match="give eos_token_id"):
        tiny.lmm().generate(tiny.batch(), max_new_tokens=3, **given)
    run = tiny.lmm().generate(tiny.encode(), max_new_tokens=3, tokenizer=letters(), **given)
    same(run, plain(tiny.lmm(), tiny.encode(), max_new_tokens=3, tokenizer=letters(), **given))


class Heard(TextStreamer):
    def __init__(self):
        super().__init__(tiny.tokenizer())
        self.said = []

    def on_finalized_text(self, text, stream_end=False):
        self.said.append((text, stream_end))


def test_a_streamer_hears_what_it_hears_from_generate():
    lmm, ours, theirs = tiny.lmm(), Heard(), Heard()
    plain(lmm, tiny.encode(), streamer=theirs)
    run = lmm.generate(tiny.encode(), graph=PROBES, max_new_tokens=N, streamer=ours)
    assert ours.said == theirs.said
    assert "".join(text for text, _ in ours.said).strip().endswith(run.text)


def test_the_longest_answer():
    lmm, encoding = tiny.lmm(), tiny.encode()
    config = GenerationConfig(max_new_tokens=5, pad_token_id=0, do_sample=False)
    assert lmm.generate(encoding, generation_config=config).generated.shape[1] == 5
    shorter = lmm.generate(encoding, generation_config=config, max_new_tokens=2)
    assert shorter.generated.shape[1] == 2
    assert options(lmm.hf_model, tiny.tokenizer(), None, {})["max_new_tokens"] == 128
    config = GenerationConfig(max_length=30, pad_token_id=0)
    with pytest.raises(vi.CapabilityError, match="say max_new_tokens"):
        lmm.generate(encoding, generation_config=config)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beam_groups": 2},
        {"constraints": [object()]},
        {"force_words_ids": [[[7]]]},
        {"penalty_alpha": 0.6},
        {"dola_layers": "high"},
        {"custom_generate": "somewhere/else"},
        {"assistant_early_exit": 2},
        {"use_mtp": True},
        {"token_healing": True},
        {"cache_implementation": "offloaded"},
        {"cache_implementation": "offloaded_static"},
        {"cache_implementation": "sliding_window"},
        {"input_ids": torch.zeros(1, 3)},
        {"inputs_embeds": torch.zeros(1, 3, 64)},
        {"attention_mask": torch.ones(1, 3)},
        {"pixel_values": torch.zeros(1, 3)},
        {"negative_prompt_ids": torch.zeros(1, 3)},
        {"output_scores": True},
        {"output_attentions": True},
        {"max_length": 30},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_a_run_cannot_do_is_refused_with_the_reason(options):
    with pytest.raises(vi.CapabilityError, match="is not supported, only"):
        tiny.lmm().generate(tiny.encode(), max_new_tokens=3, **options)


def test_a_configuration_given_along_is_filled_up_from_the_models_own():
    """As in transformers: what it leaves open holds as the model's configuration says it."""
    lmm, encoding = tiny.fresh(), tiny.batch("one image", "short", "two images")
    given, own = GenerationConfig(max_new_tokens=N, pad_token_id=0), lmm.hf_model.generation_config
    free = lmm.generate(encoding, generation_config=given)
    own.eos_token_id = int(free.generated[1, 1])
    run = lmm.generate(encoding, generation_config=given)
    same(run, plain(lmm, encoding, eos_token_id=own.eos_token_id))
    assert run.layout.mask("generated").sum(-1).tolist()[1] == 2
    own.do_sample = True
    one, again = (lmm.generate(encoding, generation_config=given, seed=3).ids for _ in range(2))
    assert torch.equal(one, again)
    own.num_beams = 3
    with pytest.raises(vi.CapabilityError, match="num_beams=3 is not supported"):
        lmm.generate(encoding, generation_config=given)


def test_a_cache_that_transformers_itself_leaves_aside_is_fine():
    lmm = tiny.fresh()
    lmm.hf_model.generation_config.cache_implementation = "hybrid"
    same(lmm.generate(tiny.encode(), max_new_tokens=N), plain(tiny.lmm(), tiny.encode()))


def test_an_unknown_option_is_refused_by_transformers():
    with pytest.raises(ValueError, match="temprature"):
        tiny.lmm().generate(tiny.encode(), max_new_tokens=3, temprature=0.5)


def windowed():
    """A decoder with a sliding window: transformers gives it a cache that forgets."""
    config = tiny.config()
    text = config.text_config.to_dict()
    text.pop("model_type")
    config.text_config = MistralConfig(**text | {"sliding_window": 6})
    torch.manual_seed(0)
    model = type(tiny.hf_model())._from_config(config, attn_implementation="sdpa").eval()
    model.generation_config = tiny.hf_model().generation_config
    return vi.LMM(model, tiny.processor(), sinks=tiny.SINKS)


def test_a_sliding_cache_is_that_of_generate():
    """For whatever acts outside attention; inside it: `test_lmm.py`."""
    lmm, encoding = windowed(), tiny.encode()
    wanted = plain(lmm, encoding)
    same(lmm.generate(encoding, max_new_tokens=N), wanted)
    steered = lmm.generate(encoding, graph=vi.edits.Steer((0.5, -0.5) * 32, 1), max_new_tokens=N)
    contrasted = lmm.generate(encoding, graph=vi.edits.Contrast("noise"), max_new_tokens=N)
    for run in (steered, contrasted):
        assert not torch.equal(run.logits, torch.stack(wanted.logits, 1))


def test_positions_that_grow_with_the_prompt_do_not_remember_it():
    """Dynamic NTK scaling: a model that has run anything answers as one that was just opened."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    sizes = {"rope_parameters": rope, "max_position_embeddings": 16}
    encoding, options = tiny.encode(), {"max_new_tokens": 3, "do_sample": False}
    assert encoding.layout.length > 16
    with torch.no_grad():
        plain = tiny.hf_model(**sizes)(**encoding.inputs).logits
        ids = tiny.hf_model(**sizes).generate(**encoding.inputs, **options)
        again = tiny.hf_model(**sizes)
        again.generate(**encoding.inputs, max_new_tokens=3)
        assert not torch.equal(again(**encoding.inputs).logits, plain), "it remembers nothing"
    lmm = tiny.fresh(**sizes)
    for _ in range(2):
        run = lmm.generate(encoding, max_new_tokens=3)
        assert torch.equal(run.ids, ids)
        assert torch.equal(lmm.run(encoding).logits, plain)
