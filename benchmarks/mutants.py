"""Mutants: small faults, put into a module one at a time, to see whether its tests notice.

python -m benchmarks.mutants edits.var:edits/test_var,kernels/test_redistribution [...] [--count 12]

A survivor is a fault that no test sees: it wants a test, or simpler code, unless it changes nothing.
"""

import argparse
import ast
import importlib
import os
import random
import resource
import sys
import types
from pathlib import Path

import pytest
import torch

PAIRS = [("Lt", "LtE"), ("Gt", "GtE"), ("Eq", "NotEq"), ("Is", "IsNot"), ("In", "NotIn")]
PAIRS += [("Add", "Sub"), ("Mult", "Div"), ("BitAnd", "BitOr"), ("And", "Or")]
OTHER = dict(PAIRS) | {b: a for a, b in PAIRS} | {"FloorDiv": "Mult", "Mod": "Mult", "Pow": "Mult"}
REVERSED = {"Lt": "GtE", "LtE": "Gt", "Gt": "LtE", "GtE": "Lt"}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "amin": "amax", "amax": "amin"}
SIGNATURE = {"annotation", "returns", "decorator_list", "defaults", "kw_defaults"}


def nodes_of(tree):
    """The nodes inside functions whose faults would show: no annotation, message or default."""
    found = []

    def walk(node, inside):
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                skipped = isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr)
                if not isinstance(child, ast.AST) or skipped or field in SIGNATURE:
                    continue
                if inside and not isinstance(child, ast.FunctionDef):
                    found.append(child)
                walk(child, inside or isinstance(child, ast.FunctionDef | ast.Lambda))

    walk(tree, False)
    return found


def faults(node):
    """The faults that a node may have: a label, and a function that puts it in."""

    def put(name, value):
        return lambda x: setattr(x, name, value)

    kind = type(node).__name__
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for table in (OTHER, REVERSED):
            if new := table.get(type(node.ops[0]).__name__):
                yield f"-> {new}", put("ops", [getattr(ast, new)()])
    elif isinstance(node, ast.BoolOp | ast.BinOp) and type(node.op).__name__ in OTHER:
        if not any(isinstance(x, ast.Constant) and isinstance(x.value, str) for x in ast.walk(node)):
            new = OTHER[type(node.op).__name__]
            yield f"-> {new}", put("op", getattr(ast, new)())
        for i in range(len(getattr(node, "values", ()))):
            yield f"without operand {i}", lambda x, i=i: x.values.pop(i)
    elif isinstance(node, ast.UnaryOp):
        yield f"without {type(node.op).__name__}", put("op", ast.UAdd())
        if not isinstance(node.op, ast.USub):
            yield "constant", lambda x: (put("op", ast.Not())(x), put("operand", ast.Constant(1))(x))
    elif isinstance(node, ast.If | ast.IfExp):
        yield f"{kind} never", put("test", ast.Constant(value=False))
        yield f"{kind} always", put("test", ast.Constant(value=True))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        flip = isinstance(node.value, bool)
        yield "other constant", put("value", not node.value if flip else node.value + 1)
    elif isinstance(node, ast.Slice):
        for end in ("lower", "upper"):
            if getattr(node, end):
                yield f"without {end}", put(end, None)
    elif isinstance(node, ast.comprehension) and node.ifs:
        yield "without its if", lambda x: x.ifs.pop()
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "without the call", put("value", ast.Constant(None))
    elif isinstance(node, ast.Name | ast.Attribute):
        name = "id" if isinstance(node, ast.Name) else "attr"
        if new := NAMES.get(getattr(node, name)):
            yield f"-> {new}", put(name, new)


def codes(code):
    """Every function's code inside another code, by its name and line."""
    for part in (c for c in code.co_consts if isinstance(c, types.CodeType)):
        yield (part.co_qualname, part.co_firstlineno), part
        yield from codes(part)


def functions(module):
    """The module's functions and methods, whatever they are wrapped in."""
    values = list(vars(module).values())
    values += [v for c in values if isinstance(c, type) for v in vars(c).values()]
    for value in values:
        for name in ("__func__", "fget", "func", "__wrapped__"):
            value = getattr(value, name, None) or value
        if isinstance(value, types.FunctionType) and value.__code__.co_filename == module.__file__:
            yield value


def put_in(module, source, where, which):
    """Give the functions of a module the code of a mutant."""
    tree = ast.parse(source)
    list(faults(nodes_of(tree)[where]))[which][1](nodes_of(tree)[where])
    new = dict(codes(compile(ast.fix_missing_locations(tree), module.__file__, "exec")))
    changed = 0
    for function in functions(module):
        code = new.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
        if code and code != function.__code__:
            function.__code__, changed = code, changed + 1
    return changed


class Sweep:
    """A plugin of pytest: tests are collected once, and run for every mutant in a process of its own."""

    def __init__(self, given):
        self.given = given

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        from tests import tiny  # after conftest.py

        tiny.plain(tiny.lmm(), tiny.encode())  # what every process would load
        for module, files in self.given.modules:
            self.items = [item for item in session.items if item.location[0] in files]
            self.sweep(importlib.import_module(f"vsink_interp.{module}"))
        return True

    def sweep(self, module):
        """Try a sample of a module's mutants."""
        source = Path(str(module.__file__)).read_text()
        began = os.times()
        if why := self.failing(lambda: True, 600):
            return print(f"{module.__name__}: the tests fail without a mutant: {why}", flush=True)
        seconds = 10 + 3 * int(os.times().children_user - began.children_user)
        nodes = nodes_of(ast.parse(source))
        found = [(i, j) for i, node in enumerate(nodes) for j, _ in enumerate(faults(node))]
        count = min(self.given.count, len(found))
        print(f"\n{module.__name__}: {count} of {len(found)} mutants, {seconds} s each", flush=True)
        for i, j in sorted(random.Random(self.given.seed).sample(found, count)):
            why = self.failing(lambda i=i, j=j: put_in(module, source, i, j), seconds)
            told = "not run" if why is None else f"killed by {why}" if why else "SURVIVED"
            label = f"{ast.unparse(nodes[i])[:60]!r}, {list(faults(nodes[i]))[j][0]}"
            print(f"{told}: line {getattr(nodes[i], 'lineno', '?')}: {label}", flush=True)
        return None

    def failing(self, prepare, seconds):
        """The first test that fails; "" if none does, None if there was nothing to put in."""
        reader, writer = os.pipe()
        if not (child := os.fork()):
            self.writer = writer
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            if not prepare():
                os._exit(99)
            for item, following in zip(self.items, [*self.items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as lines:
            first = lines.read().strip()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return None if code == 99 else first or ("its time or memory" if code else "")

    def pytest_runtest_logreport(self, report):
        if report.failed:
            os.write(self.writer, report.nodeid.encode())
            os._exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="+", help="edits.var:edits/test_var,sinks/test_sinks")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.modules = [
        (module, [f"tests/{name}.py" for name in names.split(",")])
        for module, names in (one.split(":") for one in given.modules)
    ]
    files = {name: None for _, names in given.modules for name in names}
    options = ["-q", "-s", "-p", "no:cacheprovider", "-o", "addopts=", "--import-mode=importlib"]
    sys.exit(pytest.main([*options, *files], plugins=[Sweep(given)]))
