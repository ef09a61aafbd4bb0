"""A hook of mkdocs: the notebooks as pages, with their figures, from what is committed.

Nothing is run: `make notebooks` wrote the outputs.
"""

import json
import re
from base64 import b64decode
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parents[1] / "notebooks"
MARK = "notebook-output"


def on_config(config: Any) -> Any:
    """Add to the navigation what it does not name."""
    listed = next(part["Notebooks"] for part in config.nav if "Notebooks" in part)
    pages = [f"notebooks/{name}.md" for name in notebooks()]
    listed += [page for page in pages if page not in listed]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each notebook, its figures, the notebook itself, and a list of them all."""
    for name, cells in notebooks().items():
        text, figures, _ = as_page(name, cells)
        files.append(File.generated(config, f"notebooks/{name}.md", content=text))
        for figure, content in figures.items():
            files.append(File.generated(config, f"notebooks/{figure}", content=content))
        whole = str(FOLDER / f"{name}.ipynb")
        files.append(File.generated(config, f"notebooks/{name}.ipynb", abs_src_path=whole))
    listed = next(part["Notebooks"] for part in config.nav if "Notebooks" in part)
    order = [Path(page).stem for page in listed if Path(page).stem in notebooks()]
    files.append(File.generated(config, "notebooks/index.md", content=index(order)))
    return files


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Put outputs that are HTML where Markdown left a mark: it must not read them."""
    name = Path(page.file.src_uri).stem
    if not page.file.src_uri.startswith("notebooks/") or name not in notebooks():
        return html
    _, _, outputs = as_page(name, notebooks()[name])
    mark = re.compile(rf'<div class="{MARK}" data-number="(\d+)"></div>')
    return mark.sub(lambda found: f"<div>{outputs[int(found[1])]}</div>", html)


@cache
def notebooks() -> dict[str, list[dict[str, Any]]]:
    """The cells of every notebook, by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"]
        for path in sorted(FOLDER.glob("*.ipynb"))
    }


def as_page(name: str, cells: list[dict[str, Any]]) -> tuple[str, dict[str, bytes], list[str]]:
    """A notebook as Markdown, its figures by file name, and its outputs of HTML."""
    parts: list[str] = []
    figures: dict[str, bytes] = {}
    outputs: list[str] = []
    heading = name
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#+ (.+)$", source, re.MULTILINE)
            heading = found[-1].replace("`", "") if found else heading
            parts.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source))
            continue
        parts.append(fence("python", source))
        for output in cell["outputs"]:
            data = {key: "".join(value) for key, value in output.get("data", {}).items()}
            if kind := next((kind for kind in data if kind.startswith("image/")), None):
                figure = f"{name}-{number}-{len(figures)}.{kind.removeprefix('image/')}"
                figures[figure] = b64decode(data[kind])
                parts.append(f"![Figure: {heading}]({figure})")
            elif "text/html" in data:
                parts.append(f'<div class="{MARK}" data-number="{len(outputs)}"></div>')
                outputs.append(data["text/html"])
            else:
                parts.append(fence("text", "".join(output.get("text", data.get("text/plain", "")))))
    title, rest = parts[0].split("\n", 1)
    parts[0] = f"{title}\n\n[Download this notebook]({name}.ipynb)\n{rest}"
    return "\n\n".join(parts) + "\n", figures, outputs


def fence(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def index(order: list[str]) -> str:
    """The list of all notebooks: the title of each, and the first sentence after it."""
    lines = [
        "# Notebooks",
        "",
        "Each goes from a question to an answer, offline on the toy LMM, and ends with two",
        "exercises and the same on LLaVA-1.5-7B. They lie in `notebooks/` with their outputs; the",
        "tests run them.",
        "",
    ]
    for name in order:
        title, *rest = "".join(notebooks()[name][0]["source"]).split("\n")
        sentence = re.match(r".*?(?<!et al)[.?](?=\s)", " ".join(rest).strip() + " ")
        told = sentence[0] if sentence else ""
        lines.append(f"- [{title.lstrip('# ')}]({name}.md): {told}")
    return "\n".join(lines) + "\n"
