"""The tables of the model card, from the figures that `evaluate` kept."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from .schedule import SCHEDULE, Stage

START: Final = "<!-- figures: python -m vsink_interp.toy.evaluate --card FILE -->"
END: Final = "<!-- end of figures -->"


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return _row(head) + _row(rule) + "".join(_row(row) for row in rows) + "\n"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _answers(figures: dict[str, Any]) -> str:
    accuracy, counts = figures["answers"]["accuracy"], figures["answers"]["questions"]
    rows = [(kind, counts[kind], _number(accuracy[kind])) for kind in counts]
    rows.append(("**mean of object, color, count, relation**", "", _number(accuracy["yes_no"])))
    caption = figures["caption"]
    rows += [
        ("caption: object F1", figures["scenes"], _number(caption["object_f1"])),
        ("caption: word for word", figures["scenes"], _number(caption["exact"])),
        ("caption: background", figures["scenes"], _number(caption["background"])),
    ]
    return "### Answers\n\n" + _table(("kind", "asked", "right"), rows)


def _sinks(sinks: dict[str, Any]) -> str:
    gap = sinks["phi_gap"]
    found = _table(
        ("figure", "value"),
        (
            ("sink dimensions found", ", ".join(map(str, sinks["dims"]))),
            ("phi of `<s>`, residual entering each layer", _list(sinks["phi_bos"], 1)),
            ("median phi of visual sinks", _number(sinks["phi_sink_median"], 2)),
            ("median phi of the other image tokens", _number(sinks["phi_other_median"], 2)),
            ("largest phi of a text token but `<s>`", _number(sinks["phi_other_text_max"], 2)),
            ("tau: the valley of the histogram", _number(gap["tau"], 2)),
            ("99th percentile below, first above", _list((gap["low"], gap["high"]), 2)),
            ("image tokens within 15 % of tau", _number(gap["inside"], 4)),
            ("share of background among all patches", _number(sinks["background_patches"])),
            (
                "scenes with a visual sink in every layer 2 to 6",
                _number(sinks["scenes_with_sink_everywhere"]),
            ),
        ),
    )
    share = sinks["contribution"]
    columns = (
        sinks["scenes_with_sink"],
        sinks["sinks_per_scene"],
        sinks["on_background"],
        share["attention_bos_by_layer"],
        share["attention_image_by_layer"],
        share["sink_share_by_layer"],
    )
    head = ("layer", "scenes with sink", "sinks a scene", "on background")
    attention = ("attention to `<s>`", "to the image", "sinks' share of that")
    layers = _table(
        (*head, *attention),
        [
            (at, *(_number(value, 2) for value in row))
            for at, row in enumerate(zip(*columns, strict=True))
        ],
    )
    return "### Sinks\n\n" + found + layers


def _list(values: Iterable[float], digits: int = 2) -> str:
    return " ".join(_number(value, digits) for value in values)


def _orders(figures: dict[str, Any]) -> str:
    sinks, knockout = figures["sinks"], figures["knockout"]
    masked, moved = sinks["masking_f1"], sinks["contribution"]
    arms = _table(
        ("hidden from text rows in all layers", "caption object F1"),
        (
            ("nothing", _number(masked["none"])),
            ("the visual sinks", _number(masked["sinks"])),
            ("as many others, the same in all layers", _number(masked["random_fixed"])),
            ("as many others, redrawn in each layer", _number(masked["random_redrawn"])),
        ),
    )
    norms = _table(
        ("image tokens, layers 2 on", "mean attention", "mean norm of alpha x W_OV"),
        (
            ("sinks", f"{moved['attention_sink']:.5f}", f"{moved['norm_sink']:.6f}"),
            ("the others", f"{moved['attention_other']:.5f}", f"{moved['norm_other']:.6f}"),
        ),
    )
    f1 = knockout["caption_f1"]
    cut = _table(
        ("cut from layer on", *map(str, range(len(knockout["yes_no"])))),
        (
            *((f"F1, image -> {flow}", *(_number(v, 2) for v in f1[flow])) for flow in f1),
            ("yes/no, image -> query", *(_number(v, 2) for v in knockout["yes_no"])),
            ("all questions", *(_number(v, 2) for v in knockout["all_questions"])),
        ),
    )
    recovered = (
        f"The first layer from which cutting image -> query+generated leaves 90 % of the F1: "
        f"**{knockout['recovery_layer']}**.\n"
    )
    return "### The papers' orders\n\n" + arms + norms + cut + recovered


def _schedule() -> str:
    """The stages as they are run, and what differs between them."""
    shown = (
        *("steps", "batch", "lr", "lr_end", "told", "head_penalty", "sink_weight", "stray"),
        *("grounding", "places", "facts", "no_head", "blind_answer", "closed_early"),
        *("closed_late", "vision_rate"),
    )
    rows = [
        (name, *(getattr(stage, name) if _matters(stage, name) else "" for stage in SCHEDULE))
        for name in shown
    ]
    return "### Schedule\n\n" + _table(("", *(stage.name for stage in SCHEDULE)), rows)


def _matters(stage: Stage, name: str) -> bool:
    return stage.kind == "language" or name in ("steps", "batch", "lr", "lr_end")


def render(figures: dict[str, Any]) -> str:
    """The figures as Markdown tables."""
    seeds = f"seeds {figures['first_seed']} to {figures['first_seed'] + figures['scenes'] - 1}"
    said = f"{figures['scenes']} held-out scenes ({seeds}), fp32, greedy decoding.\n\n"
    return _schedule() + said + _answers(figures) + _sinks(figures["sinks"]) + _orders(figures)


def refresh(path: Path, figures: dict[str, Any]) -> None:
    """Replace the figures of a card, between its two markers."""
    before, rest = path.read_text().split(START)
    after = rest.split(END)[1]
    path.write_text(f"{before}{START}\n\n{render(figures)}\n{END}{after}")
