"""Annotations of the package are checked at run time: shapes across arguments where there are any.

jaxtyping's import hook opens a scope for shapes at every call of every function, and builds it
three more; half of what the tests took was that. A function whose annotations name no shape is
checked as strictly by beartype alone, and one without annotations needs nothing.
"""

import dataclasses
import inspect
from functools import partial
from importlib.machinery import SourceFileLoader
from typing import ForwardRef, Literal, get_args, get_origin
from unittest.mock import patch

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook as hook

WHOLE = jaxtyping.jaxtyped
PLAIN = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def names_shapes(hint):
    """Whether an annotation holds one of jaxtyping's; a string may."""
    if isinstance(hint, str | ForwardRef):
        return True
    if get_origin(hint) is Literal:
        return False
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    inner = hint if isinstance(hint, list) else get_args(hint)
    return any(names_shapes(part) for part in inner)


def checked(thing=None, *, typechecker):
    """What the hook puts before every function and class, in the place of `jaxtyping.jaxtyped`."""
    if thing is None:
        return partial(checked, typechecker=typechecker)
    if inspect.isclass(thing):
        own = dataclasses.is_dataclass(thing) and "__init__" in vars(thing)
        if own and not names_any(thing.__init__):
            thing.__init__ = PLAIN(thing.__init__)
            return thing
    elif inspect.isfunction(thing) and not names_any(thing):
        return PLAIN(thing) if thing.__annotations__ else thing
    return WHOLE(thing, typechecker=typechecker)


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
