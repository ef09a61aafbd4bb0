"""`docs/natural-sinks.md`: its text, with the tables of what was measured in their places."""

import json
import re
from pathlib import Path

from vsink_interp.reproduction import VERDICTS

HERE = Path(__file__).parent
FIGURES = HERE / "natural_sinks.json"
TEXT = HERE / "natural_sinks.md"
PAGE = HERE.parent / "docs" / "natural-sinks.md"
FORMS = ("anchored", "aligned", "toy")
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
    """The means of a reproduction, on the small model and on the toy."""
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
    """What a reproduction says about the claim, on the small model and on the toy."""
    parts = [(form, figures.get(form, {}).get(name)) for form in FORMS]
    return "\n".join(f"- {form}: {one['because']}" for form, one in parts if one)


def verdicts(figures):
    """What holds of both papers."""
    from vsink_interp.reproduction import find

    names = [n for n in figures.get("anchored", {}) if "." in n]
    rows = []
    for name in names:
        said = [figures.get(form, {}).get(name) for form in ("anchored", "toy")]
        rows.append(
            [
                f"`{name}`",
                find(name).claim,
                *("" if s is None else VERDICTS[s["holds"]] for s in said),
            ]
        )
    return table(["", "claim", "small", "toy"], rows)


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


def tables(figures):
    """Every table by the name that the text calls it."""
    found = {}
    for form in ("anchored", "aligned"):
        own = figures.get(form, {})
        for name, make in (
            ("before the image", counts),
            ("made of", counts),
            ("off manifold", off_manifold),
            ("by layer", by_layer),
            ("staged", staged),
            ("redistribution", redistribution),
        ):
            if name in own:
                found[f"{form}: {name}"] = make(own[name])
        if "hiding" in own:
            found[f"{form}: hiding"] = hiding(own["hiding"], CAPTIONS)
            found[f"{form}: hiding, by question"] = hiding(own["hiding"], QUESTIONS)
        if "sinks" in own:
            found[f"{form}: report"] = own["sinks"]["report"]
        for name in own:
            if "." in name:
                found[name] = entry(name, figures)
                found[f"{name}: said"] = said(name, figures)
    return {**found, "verdicts": verdicts(figures)}


def page(figures):
    """The page; a table that was not measured is said to be missing."""
    found = tables(figures)

    def put(match):
        return found.get(match[1], f"*Not measured: {match[1]}.*")

    return re.sub(r"\{\{(.+?)\}\}", put, TEXT.read_text())


def written(figures):
    """Write the page of kept figures."""
    PAGE.write_text(page(json.loads(figures.read_text())))
