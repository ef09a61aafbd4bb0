"""What `natural_sinks.py` measures beside the reproductions, with plain tensors.

Scenes are held out from training. Intervals are 95 % percentile bootstrap over scenes; those of
differences are paired.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from small_figures import phi

import vsink_interp as vi
from vsink_interp.kernels import sink_value
from vsink_interp.metrics import mean_interval, paired_difference
from vsink_interp.small.packing import PATCHES, PREFIX
from vsink_interp.toy.language import DESCRIBE, YES_NO_KINDS, Question

LAYERS = (6, 15, 22)
"""Where sinks are counted: in the first stage, and twice in the second."""
MIDDLE = 15
CUTS = (0, 8, 12, 16, 18, 20, 22, 24, 26, 30)
COUNTED, ASKED, FEW = 100, 40, 16
"""Scenes in which sinks are counted by condition, of hidden tokens, of knockouts and of VAR."""


def mean(values):
    """A mean over scenes and its interval."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if not len(values):
        return [float("nan")] * 3
    return [float(values.mean()), *mean_interval(values)]


def change(off, on):
    """What changed from off to on over the same scenes, and its interval."""
    pairs = [(a, b) for a, b in zip(off, on, strict=True) if not np.isnan(a + b)]
    found = paired_difference(*zip(*pairs, strict=True))
    return [found.difference, found.low, found.high]


@torch.no_grad()
def read(held, image, before):
    """phi of the image tokens entering each layer, behind some tokens: `[layer scene token]`."""
    model, found = held.decoder.model, []
    head = model.embed_tokens.weight[torch.tensor(before, dtype=torch.long)]
    for some in image.split(8):
        rows = torch.cat([head.expand(len(some), -1, -1), some], 1)
        width = rows.shape[1]
        position = torch.arange(width).expand(len(some), -1)
        causal = torch.ones(len(some), width, width, dtype=torch.bool).tril()
        states = held.decoder.states(rows, position, causal)[:-1]
        found.append(
            torch.stack([sink_value(r, held.lmm.sinks.dims)[:, len(before) :] for r in states])
        )
    return torch.cat(found, 1)


def counted(held, is_sink):
    """How many sinks a scene has at a layer, where they lie, and whether they only lead the row."""
    is_sink, free = is_sink.numpy(), held.free.numpy()
    leading = np.logical_and.accumulate(is_sink, -1)

    def share(part, whole):
        many = whole.sum(-1)
        return np.where(many > 0, (part & whole).sum(-1) / np.maximum(many, 1), np.nan)

    return {
        "sinks": mean(is_sink.sum(-1)),
        "scenes with one": mean(is_sink.any(-1)),
        "of background": mean(share(is_sink, free)),
        "of objects": mean(share(is_sink, ~free)),
        "in the leading run": mean(share(leading, is_sink)),
    }


def before_the_image(held):
    """Sinks by what stands before the image."""
    start, ids = held.writer.start, held.writer.ids
    ways = {
        "the start token alone": (start,),
        "nothing: the image comes first": (),
        "start token, `user`, line break": (start, *ids("user\n")),
        "start token, `system`, line break, a sentence": (
            start,
            *ids("system\nYou are a helpful assistant.\n"),
        ),
    }
    found = {}
    for name, before in ways.items():
        is_sink = read(held, held.image, before) >= held.lmm.sinks.tau
        found[name] = {str(layer): counted(held, is_sink[layer]) for layer in LAYERS}
    return found


def made_of(held):
    """Sinks by what background tokens are made of."""
    table, free, image = held.decoder.model.embed_tokens.weight, held.free, held.image
    rng = torch.Generator().manual_seed(0)
    words = torch.stack([table[held.writer.ids(f" {s.background}")[0]] for s in held.scenes])
    ground = image[free]
    noise = torch.randn(image.shape, generator=rng) * ground.std(0) + ground.mean(0)
    moved = image.clone()
    for row, mine in zip(moved, free, strict=True):
        places = mine.nonzero()[:, 0]
        row[places] = row[places[torch.randperm(len(places), generator=rng)]]
    ways = {
        "what the projector makes": image,
        "the same, in other places of the background": moved,
        "the same, three times as large": 3 * image,
        "noise with their mean and spread": noise,
        "their mean, in every place": ground.mean(0).expand_as(image),
        "the word of the background": words[:, None].expand_as(image),
        "the word, and noise with their spread": words[:, None] + noise - ground.mean(0),
    }
    found = {}
    for name, tokens in ways.items():
        shown = torch.where(free[..., None], tokens, image)
        is_sink = read(held, shown, (held.writer.start,)) >= held.lmm.sinks.tau
        found[name] = {str(layer): counted(held, is_sink[layer]) for layer in LAYERS}
    return found


@torch.no_grad()
def off_manifold(held, values):
    """Do sinks lie further from every word than other background tokens do?"""
    table = F.normalize(held.decoder.model.embed_tokens.weight, dim=-1)
    nearest = torch.cat([(F.normalize(o, dim=-1) @ table.T).amax(-1)[None] for o in held.image])
    norm = held.image.norm(dim=-1)
    is_sink = values[MIDDLE, :, 1:] >= held.lmm.sinks.tau
    found, groups = {}, {"objects": ~held.free, "sinks": is_sink & held.free}
    groups["other background"] = held.free & ~is_sink
    for name, quantity in (("largest cosine with a word", nearest), ("norm", norm)):
        rows = zip(quantity, *groups.values(), strict=True)
        parts = [[float(q[g].mean()) if g.any() else np.nan for g in mine] for q, *mine in rows]
        means = {group: mean([p[i] for p in parts]) for i, group in enumerate(groups)}
        areas = [
            above(q[a], q[b])
            for q, a, b in zip(quantity, groups["sinks"], groups["other background"], strict=True)
        ]
        found[name] = means | {"P(a sink's is larger)": mean(areas)}
    return found


def above(a, b):
    """The probability that a value of `a` is larger than one of `b`: the area under the curve."""
    if not len(a) or not len(b):
        return np.nan
    return float((a[:, None] > b[None]).float().mean())


def by_layer(held, values):
    """Sinks entering each layer, and whether those of the second stage are those of the first."""
    is_sink = (values[..., 1:] >= held.lmm.sinks.tau).numpy()
    early, late = is_sink[6], is_sink[MIDDLE]
    again = np.where(late.any(-1), (early & late).sum(-1) / np.maximum(late.sum(-1), 1), np.nan)
    kept = np.where(early.any(-1), (early & late).sum(-1) / np.maximum(early.sum(-1), 1), np.nan)
    return {
        "sinks": [mean(layer.sum(-1)) for layer in is_sink],
        "late sinks that are early sinks": mean(again),
        "early sinks that are late sinks": mean(kept),
        "places used at layer 15": int(late.any(0).sum()),
    }


def arms_of(held, values):
    """Which image tokens are hidden; the first patch in none but its own arm."""
    is_sink, arms = values[MIDDLE, :, 1:] >= held.lmm.sinks.tau, without_controls(held, values)
    first, hidden = torch.zeros_like(is_sink), arms["sinks"]
    first[:, 0] = True
    rng = np.random.default_rng(0)
    for name, pool in _pools(held, is_sink).items():
        if (_others(pool) < hidden.sum(-1)).any():
            raise ValueError(f"{name}: fewer others than sinks in a scene; see with_controls")
        order = torch.from_numpy(rng.random(is_sink.shape)).masked_fill(~pool | first, 2.0)
        arms[name] = order.argsort(-1).argsort(-1) < hidden.sum(-1, keepdim=True)
    return {**arms, "first patch": first}


def without_controls(held, values):
    """Nothing hidden, and the sinks but for the first patch."""
    hidden = values[MIDDLE, :, 1:] >= held.lmm.sinks.tau
    hidden[:, 0] = False
    return {"nothing": torch.zeros_like(hidden), "sinks": hidden}


def _pools(held, is_sink):
    """Of what the controls are drawn."""
    return {"random image": ~is_sink, "random background": ~is_sink & held.free}


def _others(tokens):
    """How many tokens of each scene, but for its first patch."""
    return tokens[:, 1:].sum(-1)


def with_controls(held, values):
    """The scenes in which as many others can be hidden, and their phi.

    Where most of the background are sinks there are too few others to draw.
    """
    is_sink = values[MIDDLE, :, 1:] >= held.lmm.sinks.tau
    enough = [_others(pool) >= _others(is_sink) for pool in _pools(held, is_sink).values()]
    keep = torch.stack(enough).all(0)
    scenes = [one for one, kept in zip(held.scenes, keep.tolist(), strict=True) if kept]
    part = replace(held, scenes=scenes, image=held.image[keep], free=held.free[keep])
    return part, values[:, keep]


def hiding(held, values):
    """Image tokens hidden from all text rows in all layers: captions and questions."""
    held, values = with_controls(held, values)
    arms = arms_of(held, values)
    scores = {name: with_hidden(held, hidden) for name, hidden in arms.items()}
    said = {"scenes": len(held.scenes), "hidden": mean(arms["sinks"].sum(-1).numpy())}
    return said | compared(scores)


def hiding_everywhere(held, values):
    """The sinks alone, in all scenes: also in those that have too many of them for a control."""
    arms = without_controls(held, values)
    many = arms["sinks"].sum(-1)
    scores = {name: with_hidden(held, hidden) for name, hidden in arms.items()}
    return {"scenes": len(held.scenes), "most hidden": int(many.max())} | compared(scores)


def with_hidden(held, hidden):
    """What every scene's answers are worth with some image tokens hidden."""
    asked = [[Question("caption", DESCRIBE, one.caption), *one.questions] for one in held.scenes]

    def mask(packed, number):
        keys = F.pad(hidden[number], (1, packed.ids.shape[1] - 1 - PATCHES))
        return packed.visible() & ~((packed.turn > 0)[:, :, None] & keys)

    return [scored(turns) for turns in held.told(asked, mask)]


def compared(scores):
    """Kind by kind each arm's mean, and how it differs from hiding the sinks and nothing."""
    found = {}
    for kind in dict.fromkeys(kind for one in scores["nothing"] for kind in one):
        column = {name: [one.get(kind, np.nan) for one in arm] for name, arm in scores.items()}
        found[kind] = {name: {"is": mean(part)} for name, part in column.items()}
        for name, part in column.items():
            if name != "sinks":
                found[kind][name]["less sinks'"] = change(column["sinks"], part)
            if name != "nothing":
                found[kind][name]["less nothing's"] = change(column["nothing"], part)
    return found


def scored(turns):
    """What a scene's answers are worth: words of the caption right, their nll, questions right."""
    found = {}
    for turn, logged, right in turns:
        if turn.kind == "caption":
            told = torch.tensor([weight > 0.3 for weight in turn.weights])
            found["caption words"] = float(right[told].float().mean())
            found["caption nll"] = float(-logged[told].mean())
        else:
            found.setdefault(turn.kind, []).append(float(right.all()))
    found = {kind: float(np.mean(value)) for kind, value in found.items()}
    asked = [v for k, v in found.items() if not k.startswith("caption")]
    yes_no = [v for k, v in found.items() if k in YES_NO_KINDS]
    return found | {"all questions": float(np.mean(asked)), "yes/no": float(np.mean(yes_no))}


def staged(held):
    """Answers with the image cut off from all text rows from a layer on."""
    layers = len(held.decoder.model.layers)
    asked = [[Question("caption", DESCRIBE, one.caption), *one.questions] for one in held.scenes]
    found = {}
    for first in CUTS:

        def mask(packed, _, first=first):
            image = torch.zeros(packed.ids.shape[1], dtype=torch.bool)
            image[1:PREFIX] = True
            seen = packed.visible()
            cut = seen & ~((packed.turn > 0)[:, :, None] & image)
            return torch.stack([seen] * first + [cut] * (layers - first))

        scores = [scored(turns) for turns in held.told(asked, mask)]
        kinds = dict.fromkeys(kind for one in scores for kind in one)
        found[str(first)] = {k: mean([one.get(k, np.nan) for one in scores]) for k in kinds}
    return found


def redistribution(held):
    """VAR in both modes, over the paper's p and rho: right yes/no answers, and their log-odds."""
    asked = [
        (number, one.image, question)
        for number, one in enumerate(held.scenes)
        for question in one.questions
        if question.kind in YES_NO_KINDS
    ]
    yes, no = (held.writer.ids(word)[0] for word in ("yes", "no"))
    sign = np.array([1 if question.answer == "yes" else -1 for *_, question in asked])
    of = np.array([number for number, *_ in asked])
    arms = {("off", "", ""): vi.EditGraph()}
    for p in (0.6, 1.0):
        for rho in (0.5, 0.8):
            arms["paper", p, rho] = vi.VAR(p, rho)
            swapped = (round(1 - value, 3) for value in (p, rho))
            arms["released-code", p, rho] = vi.VAR(*swapped, mode="released-code")
    odds = {}
    for name, graph in arms.items():
        odds[name] = sign * np.concatenate(
            [
                some.logits[:, -1, yes].float().numpy() - some.logits[:, -1, no].float().numpy()
                for at in range(0, len(asked), 8)
                if (some := _run(held.lmm, asked[at : at + 8], graph))
            ]
        )
    rows, scenes = [], range(len(held.scenes))
    off = odds["off", "", ""]
    for (mode, p, rho), found in odds.items():
        right = [((found > 0)[of == n].mean(), (off > 0)[of == n].mean()) for n in scenes]
        here = [(found[of == n].mean(), off[of == n].mean()) for n in scenes]
        rows.append(
            {
                "mode": mode,
                "p": p,
                "rho": rho,
                "right": mean([on for on, _ in right]),
                "change": change([o for _, o in right], [on for on, _ in right]),
                "log-odds": change([o for _, o in here], [on for on, _ in here]),
                "turned": int(((found > 0) != (off > 0)).sum()),
                "questions": len(asked),
            }
        )
    return rows


def _run(lmm, asked, graph):
    return lmm.run([image for _, image, _ in asked], [q.text for *_, q in asked], graph)


def steps(held):
    """The measures of a form by name; those of a frozen LM answer nothing."""
    values = phi(held)
    part, few = held.part(COUNTED), held.part(FEW)
    found = {
        "before the image": lambda: before_the_image(part),
        "made of": lambda: made_of(part),
        "off manifold": lambda: off_manifold(part, values[:, :COUNTED]),
        "by layer": lambda: by_layer(held, values),
    }
    answers = {
        "hiding": lambda: hiding(held.part(ASKED), values[:, :ASKED]),
        "hiding everywhere": lambda: hiding_everywhere(held.part(ASKED), values[:, :ASKED]),
        "staged": lambda: staged(few),
        "redistribution": lambda: redistribution(few),
    }
    return found, answers
