"""Annotations of the package are checked at run time: shapes across arguments where there are any.

jaxtyping's import hook opens a scope for shapes at every call of every function, binds its
arguments and builds it three more; half of what the tests took was that. A function whose
annotations name no shape is checked as strictly by beartype alone, one with shapes by beartype
within a scope, and one without annotations needs nothing. A function inside another is made at
every call of that one, and its check once: making a check takes two milliseconds.
"""

import dataclasses
import inspect
from functools import partial, update_wrapper, wraps
from importlib.machinery import SourceFileLoader
from types import CellType, FunctionType
from typing import ForwardRef, Literal, get_args, get_origin
from unittest.mock import patch

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook as hook
from jaxtyping._storage import pop_shape_memo, push_shape_memo

WHOLE = jaxtyping.jaxtyped
PLAIN = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
FUNCTION = "__beartype_func"
"""The keyword by which beartype gives a check the function that it checks."""
MADE: dict[tuple, FunctionType | None] = {}
"""Checks of functions inside functions, by their code and annotations; None where all may pass."""


def names_shapes(hint):
    """Whether an annotation holds one of jaxtyping's; a string may."""
    return holds(hint, lambda part: is_text(part) or is_shape(part))


def is_text(hint):
    return isinstance(hint, str | ForwardRef)


def is_shape(hint):
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def holds(hint, wanted):
    """Whether an annotation is wanted, or one that it is made of."""
    if wanted(hint) or get_origin(hint) is Literal:
        return wanted(hint)
    inner = hint if isinstance(hint, list) else get_args(hint)
    return any(holds(part, wanted) for part in inner)


def checked(thing=None, *, typechecker):
    """What the hook puts before every function and class, in the place of `jaxtyping.jaxtyped`."""
    if thing is None:
        return partial(checked, typechecker=typechecker)
    if inspect.isclass(thing):
        own = dataclasses.is_dataclass(thing) and "__init__" in vars(thing)
        if own:
            thing.__init__ = checked(thing.__init__, typechecker=typechecker)
            return thing
    elif inspect.isfunction(thing):
        if not names_any(thing):
            return plain(thing) if thing.__annotations__ else thing
        later = any(holds(hint, is_text) for hint in thing.__annotations__.values())
        if not later and not inspect.isgeneratorfunction(thing):
            return within_a_scope(thing)
    return WHOLE(thing, typechecker=typechecker)


def within_a_scope(function):
    """Checked by beartype, where an axis is as long in every argument and in the result."""
    inner = plain(function)

    @wraps(function)
    def scoped(*args, **kwargs):
        __tracebackhide__ = True
        push_shape_memo({})
        try:
            return inner(*args, **kwargs)
        finally:
            pop_shape_memo()

    return scoped


def plain(function):
    """Checked by beartype; a function inside another by the check of the one made before it."""
    if "<locals>" not in function.__qualname__:
        return PLAIN(function)
    known = (function.__code__, *function.__annotations__.items())
    try:
        check = MADE[known]
    except TypeError:  # of a decorator's `*args: P.args`, which has no hash
        return PLAIN(function)
    except KeyError:
        hollow = like(function)
        check = PLAIN(hollow)
        check = MADE[known] = None if check is hollow else check
    if check is None:
        return function
    own = FunctionType(check.__code__, check.__globals__, check.__name__)
    own.__kwdefaults__ = check.__kwdefaults__ | {FUNCTION: function}
    return update_wrapper(own, function)


def like(function):
    """A function of the same code and annotations that keeps alive nothing that this one sees."""
    cells = tuple(CellType() for _ in function.__code__.co_freevars)
    hollow = FunctionType(function.__code__, function.__globals__, closure=cells)
    for attribute in ("__annotations__", "__module__", "__qualname__"):
        setattr(hollow, attribute, getattr(function, attribute))
    return hollow


def names_any(function):
    return any(names_shapes(hint) for hint in function.__annotations__.values())


def cache_own_code_alone():
    """Leave the bytecode of torch, transformers and sympy where Python keeps it.

    While the hook runs a module of ours, it looks for all bytecode under a name of its own, also
    for that of what the module imports, and so compiles 1,800 files of others: 8 CPU-seconds.
    """

    def get_code(self, fullname):
        named = partial(hook._optimized_cache_from_source, self._typechecker.get_hash())
        with patch("importlib._bootstrap_external.cache_from_source", named):
            return SourceFileLoader.get_code(self, fullname)

    del hook._JaxtypingLoader.exec_module
    hook._JaxtypingLoader.get_code = get_code
