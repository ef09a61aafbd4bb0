"""`docs/natural-sinks.md`: its text, with the tables of what was measured in their places."""

import json
from pathlib import Path

from told import figure, filled, told

from vsink_interp.reproduction import VERDICTS

HERE = Path(__file__).parent
FIGURES = HERE / "natural_sinks.json"
TEXT = HERE / "natural_sinks.md"
PAGE = HERE.parent / "docs" / "natural-sinks.md"
FORMS = ("anchored", "seed-0", "aligned", "seed-0-aligned", "toy")
"""What is measured: the forms that ship, another training run of each, and the toy."""
SMALL = FORMS[:-1]
SCENES = 200


def table(head, rows):
    """A table in Markdown."""
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def cell(value, digits=2, *, signed=False):
    """A mean and its interval."""
    if value is None or value[0] != value[0]:
        return ""
    sign = "+" if signed else ""
    return "{:{f}} [{:{f}}, {:{f}}]".format(*value, f=f"{sign}.{digits}f")


def counts(found, layers=("6", "15")):
    """Sinks by some condition, at two layers."""
    head = ["", *(f"sinks a scene, layer {layer}" for layer in layers)]
    head += [f"of background, layer {layers[1]}", "of objects", "in the leading run"]
    rows = []
    for name, by in found.items():
        late = by[layers[1]]
        rows.append(
            [
                name,
                *(cell(by[layer]["sinks"], 1) for layer in layers),
                *(cell(late[key]) for key in ("of background", "of objects", "in the leading run")),
            ]
        )
    return table(head, rows)


def off_manifold(found):
    """What sinks are like where they enter the LM."""
    head = ["", *next(iter(found.values()))]
    rows = [[name, *(cell(v, 3) for v in by.values())] for name, by in found.items()]
    return table(head, rows)


def by_layer(found, width=10):
    """Sinks a scene entering each layer."""
    rows = []
    for first in range(0, len(found["sinks"]), width):
        here = found["sinks"][first : first + width]
        rows.append(["**layer**", *(f"**{first + at}**" for at in range(len(here)))])
        rows.append(["sinks a scene", *(f"{value[0]:.1f}" for value in here)])
    head = ["layer", *(str(at) for at in range(width))]
    return table(head, rows[1:])


def hiding(found, kinds):
    """What hiding image tokens costs, kind by kind."""
    head = ["", "nothing", "sinks", "random image", "random background", "the first patch"]
    head += ["random image less sinks", "random background less sinks", "sinks less nothing"]
    rows = []
    for kind in kinds:
        arms = found[kind]
        rows.append(
            [
                kind,
                *(f"{arms[a]['is'][0]:.3f}" for a in arms),
                cell(arms["random image"]["less sinks'"], 3, signed=True),
                cell(arms["random background"]["less sinks'"], 3, signed=True),
                cell(arms["sinks"]["less nothing's"], 3, signed=True),
            ]
        )
    return table(head, rows)


def staged(found):
    """Answers with the image cut off from a layer on."""
    kinds = ["caption words", "yes/no", "object", "color", "count", "relation", "where", "how-many"]
    rows = [(at, *(cell(by[kind]) for kind in kinds)) for at, by in found.items()]
    return table(["from layer", *kinds], rows)


def redistribution(rows):
    """VAR over p and rho."""
    head = ["mode", "p (moved)", "rho", "right", "change", "change of log-odds", "answers turned"]
    return table(
        head,
        [
            [
                row["mode"],
                row["p"],
                row["rho"],
                cell(row["right"], 3),
                "" if row["mode"] == "off" else cell(row["change"], 3, signed=True),
                "" if row["mode"] == "off" else cell(row["log-odds"], 2, signed=True),
                f"{row['turned']} of {row['questions']}",
            ]
            for row in rows
        ],
    )


def entry(name, figures):
    """The means of a reproduction, on each form."""
    parts = []
    for form in FORMS:
        found = figures.get(form, {}).get(name)
        if found is None:
            continue
        rows = [
            [", ".join(str(v) for v in group.values()), cell(values, 3)]
            for group, *values in found["rows"]
        ]
        parts.append((form, found["cases"], dict(rows)))
    labels = list(dict.fromkeys(label for *_, rows in parts for label in rows))
    head = ["", *(f"{form}, {count} scenes" for form, count, _ in parts)]
    return table(head, [[label, *(rows.get(label, "") for *_, rows in parts)] for label in labels])


def said(name, figures):
    """What a reproduction says about the claim, on each form."""
    parts = [(form, figures.get(form, {}).get(name)) for form in FORMS]
    return "\n".join(f"- {form}: {one['because']}" for form, one in parts if one)


def left_out(name, figures):
    """Which scenes a reproduction could not take, on each form."""
    parts = [(form, figures.get(form, {}).get(name, {}).get("left out")) for form in FORMS]
    return "; ".join(f"{form}: {why}" for form, why in parts if why) or "none"


def verdicts(figures):
    """What holds of both papers."""
    from vsink_interp.reproduction import find

    names = [n for n in figures.get("anchored", {}) if "." in n]
    rows = []
    shown = [f for f in FORMS if f in figures and not f.endswith("aligned")]
    for name in names:
        said = [figures.get(form, {}).get(name) for form in shown]
        rows.append(
            [
                f"`{name}`",
                find(name).claim,
                *("" if s is None else VERDICTS[s["holds"]] for s in said),
            ]
        )
    return table(["", "claim", *shown], rows)


QUESTIONS = (
    "object",
    "color",
    "count",
    "relation",
    "what-color",
    "what-shape",
    "where",
    "how-many",
)
CAPTIONS = ("caption words", "caption nll", "all questions", "yes/no")


_MIDDLE = "before the image > the start token alone > 15 > "
_SAME = "made of > their mean, in every place > {} > sinks"
_HIDING = "hiding > {} > {} > less nothing's"
REPEATED = (
    ("sinks a scene entering layer 6", "by layer > sinks > 6", "1"),
    ("entering layer 15", "by layer > sinks > 15", "1"),
    ("late sinks that were early ones", "by layer > late sinks that are early sinks", "2"),
    ("objects' patches that are sinks", _MIDDLE + "of objects", "2"),
    ("background patches that are", _MIDDLE + "of background", "2"),
    ("sinks with one token for all background, layer 6", _SAME.format(6), "1"),
    ("entering layer 15", _SAME.format(15), "1"),
    ("attention that a sink gets", "A.fig3c > attention, visual sinks", "3"),
    ("that another image token gets", "A.fig3c > attention, other image tokens", "3"),
    ("what a sink adds (norm)", "A.fig3c > contribution, visual sinks", "3"),
    ("what another image token adds", "A.fig3c > contribution, other image tokens", "3"),
    ("hidden sinks cost a caption (words right)", _HIDING.format("caption words", "sinks"), "~3"),
    ("as many random ones", _HIDING.format("caption words", "random image"), "~3"),
    ("as many of background", _HIDING.format("caption words", "random background"), "~3"),
    ("hidden sinks cost questions (right)", _HIDING.format("all questions", "sinks"), "~3"),
    ("as many random ones", _HIDING.format("all questions", "random image"), "~3"),
    ("as many of background", _HIDING.format("all questions", "random background"), "~3"),
    ('hidden sinks cost "how many"', _HIDING.format("how-many", "sinks"), "~3"),
    ('cost "are there three objects?"', _HIDING.format("count", "sinks"), "~3"),
    ("caption words right, image cut off from layer 20 on", "staged > 20 > caption words", "2"),
    ("from layer 22 on", "staged > 22 > caption words", "2"),
    ("from layer 24 on", "staged > 24 > caption words", "2"),
    ("a tenth of the image tokens, by attention: right", "AB.top-k > by attention", "2"),
    ("the same, sinks left out of the ranking", "AB.top-k > by attention-without-sinks", "2"),
    ("VAR (p = 1, rho = .5) changes right yes/no answers by", "redistribution > 5 > change", "+3"),
)  # fmt: skip

_MADE = "made of > {} > {} > sinks"
_USER = "before the image > start token, `user`, line break > 15 > sinks"
REPEATED_ALIGNED = (
    *REPEATED[:7],
    ("with fresh noise, layer 15", _MADE.format("noise with their mean and spread", 15), "1"),
    ("with words, layer 6", _MADE.format("the word of the background", 6), "1"),
    ("with words, layer 15", _MADE.format("the word of the background", 15), "1"),
    ("behind `user`, layer 15", _USER, "1"),
)  # fmt: skip

TWICE = (
    ("repeated", ("anchored", "seed-0"), REPEATED),
    ("repeated, aligned", ("aligned", "seed-0-aligned"), REPEATED_ALIGNED),
)
"""The tables of both training seeds."""


def repeated(figures, forms, wanted):
    """What the text rests on, in both training seeds."""
    rows = [
        [label, *(told(figure(figures, f"{form} > {path}"), digits) for form in forms)]
        for label, path, digits in wanted
    ]
    return table(["", *forms], rows)


def tables(figures):
    """Every table by the name that the text calls it."""
    found = {}
    for form in SMALL:
        own = figures.get(form, {})
        found |= {f"{form}: {name}": made for name, made in own_tables(own).items()}
        for name in own:
            if "." in name:
                found[name] = entry(name, figures)
                found[f"{name}: said"] = said(name, figures)
                found[f"{name}: left out"] = left_out(name, figures)
    for name, forms, wanted in TWICE:
        if figures.keys() >= {*forms}:
            found[name] = repeated(figures, forms, wanted)
    return {**found, "verdicts": verdicts(figures)}


def own_tables(own):
    """Those of one form, of what was measured on it."""
    makers = {
        "before the image": counts,
        "made of": counts,
        "off manifold": off_manifold,
        "by layer": by_layer,
        "staged": staged,
        "redistribution": redistribution,
    }
    found = {name: make(own[name]) for name, make in makers.items() if name in own}
    if "hiding" in own:
        found["hiding"] = hiding(own["hiding"], CAPTIONS)
        found["hiding, by question"] = hiding(own["hiding"], QUESTIONS)
    if "redistribution" in own:
        found["turned"] = turned(own["redistribution"])
    if "sinks" in own:
        found["report"] = own["sinks"]["report"]
    return found


def turned(rows):
    """How many answers VAR turns, over the settings."""
    many = [row["turned"] for row in rows if row["mode"] != "off"]
    return f"{min(many)} to {max(many)} of {rows[0]['questions']}"


def page(figures):
    """The page; a table that was not measured is said to be missing."""
    return filled(TEXT.read_text(), figures, tables(figures))


def written(figures):
    """Write the page of kept figures."""
    PAGE.write_text(page(json.loads(figures.read_text())))
