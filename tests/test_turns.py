"""One model, several callers: each gets what it gets alone, and the model stays whole."""

import asyncio
import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import vsink_interp as vi
from tests import tiny

GRAPHS = {
    "empty": vi.EditGraph(),
    "cut": vi.Knockout("image -> query generated") | vi.probes.SegmentMass(),
    "var": vi.VAR(rho=0.2, min_image_mass=0.1),
    "resid": vi.Fn("hook_resid_mid", lambda x, hook: 1.5 * x, layers=1),  # noqa: ARG005
    "contrast": vi.Contrast("none", alpha=0.5),
}
ASKED = [tiny.PROMPTS["one image"], (tiny.image(4), "count the red discs")]


@pytest.fixture
def shared(rounds):
    """A model, jobs for it, and what each gives alone, computed by a model of its own."""
    lmm, alone = tiny.fresh(), tiny.fresh()
    alone.sinks = lmm.sinks = tiny.SINKS
    jobs = [(name, asked) for asked in range(len(ASKED)) for name in GRAPHS] * 3 * rounds
    want = {job: ids_and_logits(alone, *job) for job in set(jobs)}
    return lmm, jobs, want


def ids_and_logits(lmm, name, asked):
    run = lmm.generate(*ASKED[asked], GRAPHS[name], max_new_tokens=3)
    return run.ids, run.logits


def same(got, want):
    return all(map(torch.equal, got, want))


def ours():
    return [
        name
        for known in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS)
        for name in known
        if name.startswith("vsink")
    ]


def test_threads_on_one_model(shared):
    lmm, jobs, want = shared
    assert not torch.equal(want["empty", 0][1], want["cut", 0][1]), "the edits do something"
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda job: ids_and_logits(lmm, *job), jobs))
    wrong = [job for job, one in zip(jobs, got, strict=True) if not same(one, want[job])]
    assert wrong == []
    assert lmm.hf_model.config.get_text_config()._attn_implementation == "sdpa"
    assert ours() == []
    encoding = tiny.encode()
    assert torch.equal(lmm.run(encoding).logits, tiny.plain(tiny.lmm(), encoding))


def test_coroutines_on_one_model(shared):
    lmm, jobs, want = shared

    async def ask():
        return await asyncio.gather(
            *(asyncio.to_thread(ids_and_logits, lmm, *job) for job in jobs[:12])
        )

    assert all(map(same, asyncio.run(ask()), [want[job] for job in jobs[:12]]))


def test_two_lmms_of_one_model_in_two_threads(shared):
    lmm, jobs, want = shared
    other = vi.LMM(lmm.hf_model, lmm.processor, sinks=tiny.SINKS, check=False)
    with ThreadPoolExecutor(2) as pool:
        got = pool.map(lambda i: ids_and_logits((lmm, other)[i % 2], *jobs[i]), range(len(jobs)))
        assert all(map(same, got, [want[job] for job in jobs]))


def test_opened_while_a_run_is_going_on():
    """What another run has armed is not taken for the model's own attention."""
    lmm, inside, go_on = tiny.fresh(), threading.Event(), threading.Event()

    def wait(value, hook):
        del value, hook
        inside.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(2) as pool:
        run = pool.submit(lmm.run, tiny.encode(), graph=vi.Fn("hook_resid_mid", wait, layers=1))
        assert inside.wait(30)
        opening = pool.submit(vi.LMM, lmm.hf_model, lmm.processor, check=False)
        go_on.set()
        run.result(30)
        other = opening.result(30)
    want = tiny.plain(tiny.lmm(), tiny.encode())
    assert torch.equal(other.run(tiny.encode()).logits, want)
    assert torch.equal(tiny.plain(lmm, tiny.encode()), want)


@pytest.mark.parametrize("hook", ["hook_resid_mid", "attn.hook_pattern", "unembed.hook_out"])
def test_a_run_inside_a_hook_of_a_run_is_refused_and_both_go_on(hook):
    lmm, refused = tiny.fresh(), []
    encoding = tiny.encode()

    def ask_again(value, hook):
        del value, hook
        with pytest.raises(vi.CapabilityError, match="inside a hook of a run") as caught:
            lmm.run(encoding)
        refused.append(caught)

    edit = vi.Fn(hook, ask_again, **({} if hook.startswith("unembed") else {"layers": 1}))
    run = lmm.run(encoding, graph=edit)
    assert refused
    want = tiny.plain(tiny.lmm(), encoding)
    torch.testing.assert_close(run.logits, want, atol=1e-5, rtol=0)
    assert torch.equal(lmm.run(encoding).logits, want)


@pytest.mark.parametrize("n_models", [2, 3])
def test_threads_that_would_wait_for_each_other_are_refused(n_models):
    """Each runs its model and, inside a hook, the next one's; one of them is told, all go on."""
    models = [tiny.fresh() for _ in range(n_models)]
    encoding, together = tiny.encode(), threading.Barrier(n_models, timeout=30)

    def ask_the_next(own):
        def inside(value, hook):
            del value, hook
            together.wait()
            models[(own + 1) % n_models].run(encoding)

        return models[own].run(encoding, graph=vi.Fn("hook_resid_mid", inside, layers=1))

    refused = []

    def work(own):
        try:
            ask_the_next(own)
        except vi.CapabilityError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(n_models)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "they wait for each other"
    assert len(refused) == 1 and "wait for each other" in refused[0]
    want = tiny.plain(tiny.lmm(), encoding)
    assert all(torch.equal(model.run(encoding).logits, want) for model in models)


def test_another_model_inside_a_hook_is_waited_for():
    """Where nobody waits for the one that asks, it is no circle."""
    one, other, encoding = tiny.fresh(), tiny.fresh(), tiny.encode()
    inside, want, got = threading.Event(), tiny.plain(tiny.lmm(), encoding), []

    def ask(value, hook):
        del value, hook
        inside.set()
        got.append(other.run(encoding).logits)

    with ThreadPoolExecutor(1) as pool:
        with other.alone():
            run = pool.submit(one.run, encoding, graph=vi.Fn("hook_resid_mid", ask, layers=1))
            assert inside.wait(30)
            assert torch.equal(other.run(encoding).logits, want)
            assert not run.done()
        assert torch.equal(run.result(30).logits, want)
    assert torch.equal(got[0], want)


@pytest.mark.parametrize("graph", ["cut", "resid", "contrast"])
def test_a_plain_call_in_another_thread_sees_nothing_of_a_run(graph):
    """And the run nothing of it: its layers are visited in the middle of a decode step."""
    lmm, encoding = tiny.fresh(), tiny.encode()
    want = lmm.generate(encoding, graph=GRAPHS[graph], max_new_tokens=4)
    plain, got = tiny.plain(tiny.lmm(), encoding), []

    def call(value, hook):
        del value, hook
        with ThreadPoolExecutor(1) as pool:
            got.append(pool.submit(tiny.plain, lmm, encoding).result(30))

    meanwhile = vi.Fn("hook_resid_post", call, layers="0,2") | vi.Fn(
        "attn.hook_z", call, layers="1,3"
    )
    run = lmm.generate(encoding, graph=meanwhile | GRAPHS[graph], max_new_tokens=4)
    assert len(got) >= 4 * 4
    assert all(torch.equal(one, plain) for one in got)
    assert torch.equal(run.logits, want.logits)


def test_traces_of_ones_own_take_turns():
    lmm, encoding = tiny.fresh(), tiny.encode()

    def trace(layer):
        with lmm.trace(encoding):
            lmm.hook(f"blocks.{layer}.hook_resid_post")[...] *= 1.5
            logits = lmm.nnsight.lm_head.output.save()
        return logits  # noqa: RET504 (nnsight reads the block: it cannot return)

    want = [trace(layer) for layer in range(tiny.LAYERS)]
    assert not torch.equal(want[0], want[1])
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(trace, [i % tiny.LAYERS for i in range(12)]))
    assert all(torch.equal(one, want[i % tiny.LAYERS]) for i, one in enumerate(got))


def test_seeds_in_threads():
    lmm, encoding = tiny.fresh(), tiny.encode()

    def draw(seed):
        return lmm.generate(encoding, max_new_tokens=6, do_sample=True, seed=seed).ids

    want = [draw(seed) for seed in range(3)]
    assert not torch.equal(want[0], want[1])
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(draw, [i % 3 for i in range(24)]))
    assert all(torch.equal(one, want[i % 3]) for i, one in enumerate(got))


def test_alone_keeps_other_threads_out():
    lmm, encoding = tiny.fresh(), tiny.encode()
    with ThreadPoolExecutor(1) as pool:
        with lmm.alone():
            later = pool.submit(lmm.run, encoding)
            lmm.run(encoding)
            assert not later.done()
        assert later.result(30)


def test_what_an_interrupted_clearing_up_left_is_put_right():
    lmm, encoding = tiny.fresh(), tiny.encode()
    want = lmm.run(encoding).logits
    lmm.hooked.attention_config._attn_implementation = "vsink_interp_71"
    assert torch.equal(lmm.run(encoding).logits, want)
    assert torch.equal(tiny.plain(lmm, encoding), want)


def test_a_copy_of_an_opened_model_has_turns_of_its_own():
    lmm = tiny.fresh()
    other = vi.LMM(copy.deepcopy(lmm.hf_model), lmm.processor, check=False)
    with lmm.alone(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(other.run, tiny.encode()).result(30)
