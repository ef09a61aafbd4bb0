"""Conversations in the place of a prompt: tokens, groups and images, over the families."""

import re

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp.model.encoding import process


def talk(*images):
    """Two turns; each image in the turn that it is numbered by."""
    return [
        {"role": "system", "content": "you are a friend"},
        {"role": "user", "content": [*images[:1], {"type": "text", "text": "what is the disc ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        {"role": "user", "content": [{"type": "text", "text": "now count blue"}, *images[1:]]},
    ]


def words(encoding, group: str) -> str:
    mask = encoding.layout.mask(group)[0]
    return " ".join(tiny.tokenizer().batch_decode(encoding.inputs["input_ids"][0][mask][:, None]))


def test_an_earlier_answer_is_history_and_not_query():
    lmm = tiny.lmm()
    encoding = lmm.encode(tiny.image(), talk({"type": "image"}))
    assert words(encoding, "history") == "what is the disc ? assistant : red user :"
    assert words(encoding, "query") == "now count blue assistant :"
    assert words(encoding, "system") == "<unk> : you are a friend user :"
    assert int(encoding.layout.mask("image").sum()) == tiny.N_IMAGE
    parts = sum(
        encoding.layout.mask(g).int() for g in ("bos", "system", "image", "query", "history")
    )
    assert bool((parts == 1).all())
    assert "history[" in str(encoding.layout)


def test_every_message_is_a_turn():
    """Two questions, then three, against the words that were written; images belong to theirs."""
    lmm, place = tiny.lmm(), {"type": "image"}
    encoding = lmm.encode([tiny.image(0), tiny.image(1)], talk(place, place))
    image = "<image> " * tiny.N_IMAGE
    said = [f"{image}what is the disc ?", "red", f"now count blue {image}".strip()]
    assert [words(encoding, f"turn[{n}]") for n in range(3)] == said
    assert words(encoding, "turn[0] & image") == image.strip()
    assert words(encoding, "turn[0] turn[1] & history") == f"{said[0]} {said[1]}"
    longer = [*talk(place), {"role": "assistant", "content": "blue"}]
    longer.append({"role": "user", "content": "is this right"})
    asked = lmm.encode(tiny.image(), longer)
    said = [said[0], "red", "now count blue", "blue", "is this right"]
    assert [words(asked, f"turn[{n}]") for n in range(5)] == said
    assert words(asked, "history").split()[-8:] == "now count blue assistant : blue user :".split()
    none = ~asked.layout.mask(" ".join(f"turn[{n}]" for n in range(5)))
    assert set(words(asked, "~turn[0] & ~turn[1] & ~turn[2] & ~turn[3] & ~turn[4]").split()) == {
        *"<s> <unk> : you are a friend user assistant".split()
    }
    assert int(none.sum()) + sum(len(one.split()) for one in said) == asked.layout.length
    plain = tiny.encode()
    mine = plain.layout.mask("image query & ~role")
    assert torch.equal(plain.layout.mask("turn[0]"), mine)


def test_turns_are_cut_and_refused_and_kept(tmp_path):
    lmm, messages = tiny.lmm(), talk({"type": "image"})
    encoding = lmm.encode(tiny.image(), messages)
    pattern = vi.probes.Pattern("query")
    run = lmm.run(encoding, graph=vi.Knockout("turn[1] -> query") | pattern)
    columns = encoding.layout.mask("turn[1]")[0]
    assert int(columns.sum()) == 1
    assert float(run[pattern].values[..., columns].abs().max()) == 0
    assert nodes.apart(run.logits, tiny.plain(lmm, encoding)) > 1e-4
    with pytest.raises(vi.LayoutError, match=r"no turn\[3\] token"):
        lmm.run(encoding, graph=vi.Knockout("turn[3] -> query"))
    for absent in ("turn[3]", "frame[0]", "image[1]"):
        with pytest.raises(vi.LayoutError, match=rf"no {re.escape(absent)} token"):
            lmm.run(encoding, graph=vi.Knockout(f"image & ~{absent} -> query"))
    with pytest.raises(vi.NotationError, match=r"as in 'turn\[0\]'"):
        vi.Knockout("turn -> query")
    answered = lmm.generate(encoding, graph=vi.Knockout("turn[1] -> generated"), max_new_tokens=3)
    assert torch.equal(answered.layout.mask("turn[1]")[0, : len(columns)], columns)
    answered.save(tmp_path)
    kept = vi.Run.load(tmp_path).layout
    for group in ("turn[1]", "history"):
        assert torch.equal(kept.mask(group), answered.layout.mask(group))
    batch = lmm.run([tiny.image()] * 2, [messages, "what is this"], batch_size=1)
    assert batch.layout.mask("turn[1]").sum(-1).tolist() == [1, 0]


@pytest.mark.parametrize("where", ["own", "given", "mixed", "none written"])
def test_images_come_with_the_messages_or_beside_them(where):
    one, two = tiny.image(1), tiny.image(2)
    place = {"type": "image"}
    image, messages = {
        "own": (None, talk({**place, "image": one}, {**place, "image": two})),
        "given": ([one, two], talk(place, place)),
        "mixed": (two, talk({**place, "image": one}, place)),
        "none written": ([one, two], talk()),
    }[where]
    encoding = tiny.lmm().encode(image, messages)
    assert [x.tobytes() for x in encoding.images[0]] == [one.tobytes(), two.tobytes()]
    index = encoding.layout.image_index[0]
    question = encoding.layout.mask("query")[0].nonzero()[0]
    late = bool((index == 1).nonzero()[0] > question)
    assert late == (where != "none written")


def test_what_runs_on_a_prompt_runs_on_a_conversation():
    lmm, messages = tiny.lmm(), talk({"type": "image"})
    encoding = lmm.encode(tiny.image(), messages)
    cut = vi.Knockout("history -> query")
    mass = vi.probes.SegmentMass("query", groups=("history", "~history"))
    got = lmm.run(tiny.image(), messages, mass)[mass].values[0, 0]
    with torch.no_grad():
        eager = tiny.lmm(attention="eager").hf_model(**encoding.inputs, output_attentions=True)
    rows, keys = encoding.layout.mask("query")[0], encoding.layout.mask("history")[0]
    wanted = eager.attentions[0][0][:, rows][..., keys].sum(-1)
    assert nodes.apart(got[..., 0], wanted) < 2e-5
    run = lmm.run(tiny.image(), messages, cut | mass)
    assert float(run[mass].values[..., 0].abs().max()) == 0
    assert nodes.apart(run.logits, tiny.plain(lmm, encoding)) > 1e-3
    text = lmm.generate(tiny.image(), messages, max_new_tokens=2).text
    assert isinstance(text, str)
    with pytest.raises(vi.LayoutError, match=r"earlier turns.*'generated', 'history'"):
        lmm.run(tiny.image(), messages, vi.probes.SegmentMass())
    with pytest.raises(vi.LayoutError, match="this prompt has no history token"):
        lmm.run(tiny.encode(), graph=cut)


def test_conversations_and_prompts_share_a_batch():
    lmm = tiny.lmm()
    images, prompts = [tiny.image(0), tiny.image(1)], [talk({"type": "image"}), "count"]
    both = lmm.run(images, prompts)
    for i in range(2):
        alone = lmm.run(images[i], prompts[i])
        length = alone.logits.shape[1]
        assert nodes.apart(both.logits[i, -length:], alone.logits[0]) < 1e-4
    assert len(both.text) == 2


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        (talk()[:3], vi.InputError, "the last message is the assistant's"),
        ([{"role": "bot", "content": "hi"}], vi.InputError, "system, user, assistant"),
        ([{"role": "user"}], vi.InputError, "a role .* and a content"),
        ([{"role": "user", "content": "  "}], vi.InputError, "empty"),
        (talk({"type": "video", "video": "x.mp4"}), vi.InputError, r"vi\.Video\(\[image"),
        (talk({"type": "image_url"}), vi.InputError, "download it first"),
        (talk({"type": "sound"}), vi.InputError, "a text, an image or a video"),
        (talk({"type": "image"}, {"type": "image"}), vi.InputError, "2 places for images"),
        ([{"role": "user", "content": "what is <image>"}], vi.InputError, "holds a placeholder"),
    ],
)
def test_messages_that_cannot_be_meant_are_refused(messages, error, message):
    with pytest.raises(error, match=message):
        tiny.lmm().encode(tiny.image(), messages)


@pytest.mark.parametrize("family", sorted(f.name for f in vi.families.FAMILIES if f.tiny))
def test_every_family_writes_two_turns_or_says_that_it_cannot(family):
    lmm = vi.LMM.tiny(family)
    messages = talk({"type": "image"})[1:]  # some templates know no system
    if not getattr(lmm.processor, "chat_template", None):
        with pytest.raises(vi.CapabilityError, match="no chat template"):
            lmm.encode(tiny.image(), messages)
        return
    encoding = lmm.encode(tiny.image(), messages)
    text = lmm.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    plain = process(lmm.processor, lmm.hooked.family, [text], [[tiny.image()]])
    assert torch.equal(encoding.inputs["input_ids"], plain["input_ids"])
    tokens = lmm.to_str_tokens(encoding)
    said = {
        group: "".join(t for t, m in zip(tokens, encoding.layout.mask(group)[0], strict=True) if m)
        for group in ("history", "query")
    }
    flat = {group: text.replace(" ", "").lower() for group, text in said.items()}
    assert "red" in flat["history"]
    assert "disc" in flat["history"]
    assert "countblue" in flat["query"]
    assert "red" not in flat["query"]
