"""Locks by which runs of one model take turns, from whatever threads they come."""

from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock, RLock, get_ident
from typing import Any, final
from weakref import WeakKeyDictionary, ref

from nnsight.intervention.interleaver import Interleaver
from nnsight.tracing.backend import Backend
from typing_extensions import override

from ..errors import CapabilityError


class _Run:
    """A run that is going on."""


@final
class _Holder:
    """A thread that holds a lock."""

    def __init__(self) -> None:
        self.thread = get_ident()


@final
class Turns:
    """The lock of one model or tokenizer, and whether a run of it is going on.

    **Attributes:**

    - `attention`: the attention function of the model itself, as it was last seen outside a run.
    """

    def __init__(self) -> None:
        self.attention = ""
        self._lock = RLock()
        # Weak: an interrupt in the very moment in which a run ends does not make it last.
        self._running: ref[_Run] | None = None
        self._holder: ref[_Holder] | None = None

    @property
    def holder(self) -> int | None:
        """The thread that holds the lock."""
        held = None if self._holder is None else self._holder()
        return None if held is None else held.thread

    @contextmanager
    def hold(self) -> Generator[None]:
        """Acquire the lock, waiting if necessary; a thread that has it may acquire it again.

        **Raises:** `CapabilityError` where it would be waited for without end.
        """
        this = _Holder()
        try:
            self._queue(this.thread)
            with self._lock:
                _awaited.pop(this.thread, None)
                before = self._holder
                try:
                    self._holder = ref(this)
                    yield
                finally:
                    self._holder = before
        finally:
            _awaited.pop(this.thread, None)

    def _queue(self, thread: int) -> None:
        """Say that a thread waits, unless who holds the lock waits, by whatever way, for it."""
        with _asking:
            other, seen = self.holder, set[int]()
            while other not in (None, thread) and other not in seen:
                seen.add(other)
                other = _awaited[other].holder if other in _awaited else None
            if seen and other == thread:
                raise CapabilityError(
                    "threads would wait for each other without end: each has one model (inside a "
                    "hook of its run, or by alone()) and asks for another's; run the other model "
                    "before or after, or give each thread models of its own"
                )
            _awaited[thread] = self

    @contextmanager
    def run(self) -> Generator[None]:
        """Hold it for a run.

        **Raises:** `CapabilityError` inside a run of it in the same thread.
        """
        with self.hold():
            if self._running is not None and self._running() is not None:
                raise CapabilityError(
                    "this is a run inside a hook of a run of the same model, which would lose its "
                    "place; run it before or after, or open the model a second time for it"
                )
            this = _Run()
            try:
                self._running = ref(this)
                yield
            finally:
                self._running = None


_turns: WeakKeyDictionary[Any, Turns] = WeakKeyDictionary()
_awaited: dict[int, Turns] = {}
"""What each waiting thread waits for."""
_asking = Lock()


def turns_of(thing: Any) -> Turns:
    """The turns of a model's layers, or of a tokenizer: the same for whoever wraps them."""
    with _asking:
        return _turns.setdefault(thing, Turns())


@final
class OwnThread(Interleaver):
    """nnsight's interleaver for the thread of a run alone.

    A module that is called in another thread meanwhile is called plainly: the greenlets that wait
    for a value cannot be woken from there, and its visits are none of the run's.
    """

    _by: int | None

    @classmethod
    def of(cls, interleaver: Interleaver) -> None:
        """Make an interleaver one of these."""
        if not isinstance(interleaver, cls):
            interleaver.__dict__.pop("interleaving")
            interleaver.__class__ = cls
            interleaver.interleaving = False

    @property
    def interleaving(self) -> bool:
        """Whether this thread is in a run."""
        return self._by is not None and self._by == get_ident()

    @interleaving.setter
    def interleaving(self, value: bool) -> None:
        self._by = get_ident() if value else None


@final
class TakingTurns(Backend):
    """Where nnsight carries out a trace of the user's own: here, in its turn."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    @override
    def __call__(self, tracer: Any) -> None:
        with self.turns.run():
            super().__call__(tracer)
