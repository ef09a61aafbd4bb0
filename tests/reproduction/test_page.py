"""docs/reproduce.md is what its script writes."""

import importlib.util
import json
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs/gen_reproduce.py"


def script():
    spec = importlib.util.spec_from_file_location("gen_reproduce", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_reproductions_is_fresh():
    module = script()
    found = json.loads(module.KEPT.read_text())
    assert module.PAGE.read_text() == module.page(found), "run: python docs/gen_reproduce.py"
