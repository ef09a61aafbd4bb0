"""Write docs/reproduce.md from folders of reproductions: `python docs/gen_reproduce.py toy=DIR`.

Each folder is what `vsink reproduce all --out DIR` (or one entry after another) wrote, under the
name of its model; figures are those of the first. Verdicts are drawn anew from the rows. What it
takes from them is kept in docs/reproduce.json, from which a test writes the page again; entries
that no folder has stay as they were.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsink_interp.reproduction import (
    ENTRIES,
    NOT_ESTABLISHED,
    PAPERS,
    VERDICTS,
    Entry,
    Measurements,
)
from vsink_interp.reproduction.measurements import LEFT_OUT

HERE = Path(__file__).parent
PAGE, KEPT, PICTURES = HERE / "reproduce.md", HERE / "reproduce.json", HERE / "assets/reproduce"
HEAD = """# Reproduce the papers

<!-- Written by docs/gen_reproduce.py; edit vsink_interp/reproduction/. -->

Every figure, table and ablation of both papers is one command and one call:

```console
vsink reproduce list
vsink reproduce A.fig3b --model llava-hf/llava-1.5-7b-hf --data coco/ --out reproduced
vsink reproduce all --quick --out reproduced
```

```python
import vsink_interp as vi

found = vi.reproduce("A.fig8b", vi.LMM.toy(), limit=2)  # data="coco/", log="reproduced"
print(found.table())
print(vi.reproduction.find("A.fig8b").outcome(found))
found.plot()
found.to_pandas()  # one line a measurement
```

`found.save(folder)` writes a CSV, and `log=` the rows as they come. A run that was stopped, or
killed, goes on from the folder, and is refused if the model's weights, code, versions or settings
have changed. `all` also writes `index.html`, one page with every figure and verdict. With
`--on ray --replicas N`, or `--shard I/N`, [many processes](scale.md) measure it.

**Data.** Without `--data` the cases are toy scenes. A folder may hold images alone (described by
"Describe the image."); a table `cases.csv` with the columns `image`, and if you like `prompt` and
`answer`; a dataset that `datasets` saved to disk, with the columns `image`, and if you like
`prompt` (or `question`) and `answer` (or `caption`); COCO's annotations and images; POPE's, MME's
and the other benchmarks' own files ([evaluation](evaluation.md)); or masks: beside `NAME.jpg` a
folder `NAME.masks` with one black-and-white image for each object, called by the object's name.
Images are opened when they are reached, so that 100,000 take the memory of a few.

**On a server.** `--remote ADDRESS` runs an entry on an [NDIF server](remote.md) that hosts the
model which `--model` names; `--remote` alone takes the server in nnsight's configuration. Rows are
those of the same model here, and a stopped entry goes on from its folder likewise. The command
fetches what it needs, however large; in Python, open the model with
`remote=vi.Server(address, allow_large=True)` for that.
{remote}

**Verdicts.** Each entry states the paper's claim as a sentence that can be true of a model. It
*holds* if the whole 95 % interval of the paired difference (bootstrap over cases) is on the right
side, *does not hold* if it is on the wrong side, and otherwise *cannot be told* from these cases.
Two arms of a benchmark are compared by the intervals of what each changes, which must not overlap.
Claims about sizes (phi, dimensions, counts of sinks, heads, times) are judged by the numbers beside
the verdict, without an interval.
The toy's sinks were [trained in](toy-model-card.md), so what holds there is no evidence for the
papers; it shows that the measurement works. No 7B model was measured here.

The toy was measured on 32 cases of each entry (`--limit 32`); the small LMM, with its trained
adapter, on twelve (`--model small --quick --limit 12`): an interval over
twelve toy scenes is a hint. More of it on more scenes: [natural sinks](natural-sinks.md).

"""


def kept(folders: Mapping[str, Path], known: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs of folders of reproductions, beside what it knows."""
    found = {name: dict(known.get(name, {})) for name in (entry.name for entry in ENTRIES)}
    for model, folder in folders.items():
        for entry in ENTRIES:
            if (folder / f"{entry.name}.csv").is_file():
                measured = Measurements.load(folder, entry.name)
                one, missing = entry.outcome(measured), measured.about.get(LEFT_OUT)
                because = f"{one.because}; left out: {missing}" if missing else one.because
                found[entry.name][model] = {"holds": one.holds, "because": because}
        index = folder / "index.json"
        for one in json.loads(index.read_text(encoding="utf-8")) if index.is_file() else ():
            if "error" in one:
                found[one["name"]][model] = {"error": one["error"]}
    return {name: told for name, told in found.items() if told}


def page(found: Mapping[str, Any]) -> str:
    """The page."""
    models = list(dict.fromkeys(model for one in found.values() for model in one))
    head = ["", "shows", *(f"{model}" for model in models)]
    lines = [
        HEAD.replace("{remote}", _on_a_server()),
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for entry in ENTRIES:
        cells = [_verdict(found.get(entry.name, {}).get(model)) for model in models]
        link = f"[`{entry.name}`](#{entry.name.lower().replace('.', '')})"
        lines.append(f"| {link} | {entry.title} | {' | '.join(cells)} |")
    lines += ["", "Not established: " + "; ".join(NOT_ESTABLISHED) + "."]
    paper = ""
    for entry in ENTRIES:
        if entry.paper != paper:
            paper = entry.paper
            lines += ["", f"## {PAPERS[paper]}"]
        lines += ["", *_section(entry, found.get(entry.name, {}))]
    return "\n".join(lines) + "\n"


def _on_a_server() -> str:
    """What cannot be measured there, and what lacks something, with the reasons."""
    parts = [f"`{entry.name}` is refused there: {entry.here}." for entry in ENTRIES if entry.here]
    parts += [f"`{e.name}` lacks its {e.left_out}." for e in ENTRIES if e.left_out]
    return " ".join([*parts, "All others run whole."])


def _verdict(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "not run"
    return "not measured" if "error" in one else VERDICTS[one["holds"]]


def _section(entry: Entry, found: Mapping[str, Any]) -> list[str]:
    lines = [f"### {entry.name}", "", f"{entry.title[0].upper()}{entry.title[1:]}."]
    lines += ["", f"**Claim:** {entry.claim}."]
    lines += ["", "```console", f"vsink reproduce {entry.name}", "```", ""]
    if (PICTURES / f"{entry.name}.png").is_file():
        lines += [f"![{entry.title}](assets/reproduce/{entry.name}.png)", ""]
    for model, one in found.items():
        lines += [f"- **{model}**: {_verdict(one)}: {one.get('error') or one['because']}"]
    if entry.published:
        lines += ["", "| published | | source |", "|---|---|---|"]
        lines += [f"| {p.what} | {p.value} | {p.source} |" for p in entry.published]
    if entry.note:
        lines += ["", entry.note]
    return lines


def _take(folder: Path) -> None:
    """Copy the figures of a folder."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for entry in ENTRIES:
        source = folder / f"{entry.name}.png"
        if source.is_file():
            shutil.copyfile(source, PICTURES / source.name)


if __name__ == "__main__":
    folders = {name: Path(place) for name, place in (arg.split("=", 1) for arg in sys.argv[1:])}
    if folders:
        found = kept(folders, json.loads(KEPT.read_text(encoding="utf-8")))
        KEPT.write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
        _take(next(iter(folders.values())))
    PAGE.write_text(page(json.loads(KEPT.read_text(encoding="utf-8"))), encoding="utf-8")
