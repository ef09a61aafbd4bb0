"""Mutants: small faults, put into a module one at a time, to see whether its tests notice.

python -m benchmarks.mutants edits.var:edits/test_var,kernels/test_redistribution [...] [--count 12]

A survivor wants a test, or simpler code, unless it changes nothing: CONTRIBUTING.md.
"""

import argparse
import ast
import importlib
import os
import random
import resource
import sys
from pathlib import Path
from types import CodeType, FunctionType

import pytest
import torch

PAIRS = "Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn, Add Sub, Mult Div, BitAnd BitOr, And Or"
OTHER = dict(pair.split() for pair in PAIRS.split(", "))
OTHER |= {b: a for a, b in OTHER.items()} | {"FloorDiv": "Mult", "Mod": "Mult", "Pow": "Mult"}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "amin": "amax", "amax": "amin"}
CHANGED = {bool: lambda x: not x, int: lambda x: x + 1, float: lambda x: x + 1}
SKIPPED = {"annotation", "returns", "decorator_list", "defaults", "kw_defaults"}


def nodes_of(node, inside=False):
    """The nodes inside functions whose faults would show: no annotation, default or message."""
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            said = isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr)
            if isinstance(child, ast.AST) and not said and field not in SKIPPED:
                if inside and not isinstance(child, ast.FunctionDef):
                    yield child
                yield from nodes_of(
                    child, inside or isinstance(child, ast.FunctionDef | ast.Lambda)
                )


def other(op):
    return getattr(ast, OTHER.get(type(op).__name__, "UAdd"))()


FAULTS = {
    ast.Compare: lambda x: [("ops", [other(x.ops[0])])] if type(x.ops[0]).__name__ in OTHER else [],
    ast.BinOp: lambda x: [("op", other(x.op))] if type(x.op).__name__ in OTHER else [],
    ast.BoolOp: lambda x: [("op", other(x.op))],
    ast.UnaryOp: lambda x: [("op", ast.Not() if isinstance(x.op, ast.Invert) else ast.UAdd())],
    ast.If: lambda _: [("test", ast.Constant(always)) for always in (False, True)],
    ast.IfExp: lambda _: [("test", ast.Constant(always)) for always in (False, True)],
    ast.Slice: lambda x: [(end, None) for end in ("lower", "upper") if getattr(x, end)],
    ast.comprehension: lambda x: [("ifs", x.ifs[1:])] if x.ifs else [],
    ast.Name: lambda x: [("id", NAMES[x.id])] if x.id in NAMES else [],
    ast.Attribute: lambda x: [("attr", NAMES[x.attr])] if x.attr in NAMES else [],
    ast.Constant: lambda x: (
        [("value", CHANGED[type(x.value)](x.value))] if type(x.value) in CHANGED else []
    ),
}


def faults(node):
    """The faults that a node may have: what is set to what."""
    return FAULTS.get(type(node), lambda _: [])(node)


def codes(code):
    """The code of every function in another code, by its name and line."""
    for part in (c for c in code.co_consts if isinstance(c, CodeType)):
        yield (part.co_qualname, part.co_firstlineno), part
        yield from codes(part)


def put_in(module, tree):
    """Give the functions of a module, whatever they are wrapped in, the code of a mutant."""
    new = dict(codes(compile(ast.fix_missing_locations(tree), module.__file__, "exec")))
    values = list(vars(module).values())
    for found in values + [v for c in values if isinstance(c, type) for v in vars(c).values()]:
        value = found
        for name in ("__func__", "fget", "func", "__wrapped__"):
            value = getattr(value, name, None) or value
        if isinstance(value, FunctionType) and value.__code__.co_filename == module.__file__:
            key = value.__code__.co_qualname, value.__code__.co_firstlineno
            value.__code__ = new.get(key, value.__code__)


class Sweep:
    """A plugin of pytest: tests are collected once, and run in a process of each mutant's own."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        from tests import tiny  # after conftest.py

        tiny.plain(tiny.lmm(), tiny.encode())  # what every process would load
        for name, files in given.modules.items():
            self.items = [item for item in session.items if item.location[0] in files]
            self.sweep(importlib.import_module(f"vsink_interp.{name}"))
        return True

    def sweep(self, module):
        source = Path(module.__file__).read_text()
        if why := self.failing(lambda: None):
            return print(f"{module.__name__}: fails without a mutant: {why}", flush=True)
        nodes = list(nodes_of(ast.parse(source)))
        found = [(i, j) for i, node in enumerate(nodes) for j, _ in enumerate(faults(node))]
        chosen = random.Random(given.seed).sample(found, min(given.count, len(found)))
        print(f"\n{module.__name__}: {len(chosen)} of {len(found)} mutants", flush=True)
        for i, j in sorted(chosen):
            tree = ast.parse(source)
            node, line = list(nodes_of(tree))[i], getattr(nodes[i], "lineno", "?")
            name, value = faults(node)[j]
            setattr(node, name, value)
            why = self.failing(lambda tree=tree: put_in(module, tree))
            told = f"killed by {why}" if why else "SURVIVED"
            was, now = (ast.unparse(one)[:60] for one in (nodes[i], node))
            print(f"{told}: line {line}: {was!r} -> {now!r}", flush=True)
        return None

    def failing(self, prepare):
        """The first test that fails, in a process of its own; "" if none does."""
        reader, writer = os.pipe()
        if not (child := os.fork()):
            self.writer = writer
            resource.setrlimit(resource.RLIMIT_CPU, (given.seconds, given.seconds + 2))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            prepare()
            for item, following in zip(self.items, [*self.items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as lines:
            first = lines.read().strip()
        return first or ("its end" if os.waitpid(child, 0)[1] else "")

    def pytest_runtest_logreport(self, report):
        if report.failed:
            os.write(self.writer, report.nodeid.encode())
            os._exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="+", help="MODULE:TESTS, below vsink_interp and tests")
    for option, usual in {"count": 12, "seed": 0, "seconds": 60}.items():
        parser.add_argument(f"--{option}", type=int, default=usual)
    given = parser.parse_args()
    parts = [one.split(":") for one in given.modules]
    given.modules = {m: [f"tests/{name}.py" for name in names.split(",")] for m, names in parts}
    files = {name: None for names in given.modules.values() for name in names}
    torch.set_num_threads(1)
    options = ["-q", "-s", "-p", "no:cacheprovider", "-o", "addopts=", "--import-mode=importlib"]
    sys.exit(pytest.main([*options, *files], plugins=[Sweep()]))
