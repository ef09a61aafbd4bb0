"""Write notebooks/*.ipynb: each .py, run, with outputs that a diff can bear.

`python docs/gen_notebooks.py [NAME ...]`; all of them without a name. Cells run in IPython itself,
in a process forked for each notebook, because a kernel would import torch for each. What runs on
the small LMM is left as it is where that is not installed (`make small`).
"""

import io
import os
import sys
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import numpy as np
from IPython.core.displayhook import CapturingDisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat.v4 import new_output
from PIL import Image

FOLDER = Path(__file__).parents[1] / "notebooks"
WIDEST = 800
"""The widest figure, in pixels."""
PALETTE = 256
"""A figure of lines and areas keeps as many colours: a third of the bytes."""
OFF = 32, 1e-3
"""Where a palette is off by more than this, at more than this share of pixels, it is a JPEG."""
ON_SMALL = ("natural_sinks",)
"""Those on the small LMM: written only where it is installed."""
LONGEST = 150_000
"""The longest HTML of an output, in characters: circuitsvis's bundle is ten times as long."""


def main() -> None:
    """Build the notebooks that are named, or all."""
    os.environ |= {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # as in a kernel
        "TQDM_DISABLE": "1",
    }
    import vsink_interp  # noqa: F401 (for the processes that are forked from here)
    from vsink_interp import model, plot  # noqa: F401

    for source in sorted(FOLDER.glob("*.py")):
        if sys.argv[1:] and source.stem not in sys.argv[1:]:
            continue
        if source.stem in ON_SMALL and not small_is_here():
            print(f"{source.stem}: left as it is, for the small LMM is not installed (make small)")
            continue
        child = os.fork()
        if not child:
            nbformat.write(executed(source), source.with_suffix(".ipynb"))
            print(f"{source.stem}: {source.with_suffix('.ipynb').stat().st_size // 1000} kB")
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"{source.name} failed: see above")


def small_is_here() -> bool:
    """Whether the packages of the small LMM are installed."""
    from vsink_interp.errors import CapabilityError
    from vsink_interp.small.packages import PACKAGES, located

    try:
        return all(located(package) for package in PACKAGES)
    except CapabilityError:
        return False


def executed(source: Path) -> Any:
    """A notebook as its source says, with the outputs of running it in an empty folder."""
    notebook, shell = jupytext.read(source), InteractiveShell.instance()
    notebook.metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number, cell in enumerate(notebook.cells):
            cell.id, cell.metadata = f"cell-{number}", {}
            if cell.cell_type == "code":
                count += 1
                cell.execution_count, cell.outputs = count, outputs_of(shell, cell.source, count)
    nbformat.validate(notebook)
    return notebook


def outputs_of(shell: InteractiveShell, source: str, count: int) -> list[Any]:
    """What a cell prints and shows; the last line of a cell is its result, figures are shown."""
    results: list[dict[str, Any]] = []
    shell.display_trap.hook = CapturingDisplayHook(shell, results)
    with capture_output() as caught:
        done = shell.run_cell(source, store_history=True)
    if not done.success:
        sys.stderr.write(f"{caught.stdout}{caught.stderr}\nin the cell:\n{source}\n")
        os._exit(1)
    found = [new_output("stream", name="stdout", text=caught.stdout)] if caught.stdout else []
    found += [new_output("display_data", data=tidied(o.data)) for o in caught.outputs]
    kind = {"output_type": "execute_result", "execution_count": count}
    found += [new_output(**kind, data=tidied(one["data"])) for one in results]
    return found


def tidied(data: dict[str, Any]) -> dict[str, Any]:
    """What is shown, with small figures and no bundle of scripts."""
    told = {"text/plain": data.get("text/plain", "a figure")}
    if png := data.get("image/png"):
        kind, content = small(b64decode(png) if isinstance(png, str) else png)
        return {kind: b64encode(content).decode(), **told}
    html = data.get("text/html", "")
    return {"text/html": html, **told} if 0 < len(html) < LONGEST else told


def small(png: bytes) -> tuple[str, bytes]:
    """A figure that is no larger than need be: its kind, and the file."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.width > WIDEST:
        size = WIDEST, round(image.height * WIDEST / image.width)
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    palette = image.quantize(PALETTE)
    off = np.abs(np.asarray(image, int) - np.asarray(palette.convert("RGB"), int)).max(-1)
    if (off > OFF[0]).mean() > OFF[1]:
        image.save(buffer, "JPEG", quality=85, optimize=True)
        return "image/jpeg", buffer.getvalue()
    palette.save(buffer, "PNG", optimize=True)
    return "image/png", buffer.getvalue()


if __name__ == "__main__":
    main()
