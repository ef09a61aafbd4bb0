"""`OnRay`: several copies of a model on a Ray cluster, which do some work piece by piece."""

import os
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from typing_extensions import override

from ..errors import CapabilityError, InputError, ResultError, UnreachableError
from ..families import Family
from ..sinks import SinkDims
from .lmm import LMM
from .workers import Opener, Piece, Work, Workers

PATIENCE = 900.0
"""How many seconds the cluster has to place a replica before it is asked what hinders it."""


@final
@dataclass(frozen=True, eq=False)
class Packed:
    """A model as another process can open it, its weights included."""

    hf_model: Any
    processor: Any
    family: Family
    sinks: SinkDims | None
    name: str
    refused: tuple[Mapping[str, str], str, str]

    @classmethod
    def of(cls, lmm: LMM) -> "Packed":
        """Pack a model.

        **Raises:** `CapabilityError` for one whose weights cannot travel.
        """
        spread = getattr(lmm.hf_model, "hf_device_map", None) is not None
        if spread or getattr(lmm.hf_model, "hf_quantizer", None) is not None:
            raise CapabilityError(
                f"{lmm.name} was spread or quantised as it was loaded, and cannot be sent to "
                "replicas; give a function that opens it instead: "
                "functools.partial(vi.LMM.from_pretrained, repo, ...)"
            )
        lmm.backend.require_here("a job on Ray", "leave on='ray' out")
        hooked = lmm.hooked
        refused = dict(hooked.failed), hooked.unlike_heads, hooked.unlike_logits
        sinks = lmm.sinks_or_none
        return cls(lmm.hf_model, lmm.processor, hooked.family, sinks, lmm.name, refused)

    def __call__(self) -> LMM:
        """Open it."""
        lmm = LMM(self.hf_model, self.processor, sinks=self.sinks, family=self.family, check=False)
        lmm.name = self.name
        lmm.hooked.failed = dict(self.refused[0])
        _, lmm.hooked.unlike_heads, lmm.hooked.unlike_logits = self.refused
        return lmm


@final
class Replica:
    """A copy of the model in a process of its own: what Ray makes an actor of."""

    def __init__(self) -> None:
        self._lmm: LMM | None = None

    def placed(self) -> None:
        """Answer as soon as there is room for this replica."""

    def open(
        self, opener: Opener, work: Work, sinks: SinkDims | None, folder: Path
    ) -> tuple[dict[str, Any], SinkDims | None]:
        """Open the model: what its results depend on, and the sinks it found or was given.

        **Arguments:**

        - `folder`: where the caller is; relative paths lead from there.
        """
        with suppress(OSError):  # not on this machine: what is relative is not found, and said so
            os.chdir(folder)
        self._lmm = opener()
        if sinks is not None:
            self._lmm.sinks = sinks
        return work.about(self._lmm), self._lmm.sinks_or_none

    def made(self, work: Work, piece: Piece) -> Any:
        """Do a piece of the work."""
        assert self._lmm is not None  # noqa: S101 (`open` comes first)
        return work.made(self._lmm, piece)


@final
class OnRay(Workers):
    """Replicas on the Ray cluster that this process is connected to, or finds.

    **Arguments:**

    - `source`: a model, whose weights are sent; or what opens one there.
    - `replicas`: how many.
    - `gpus`: how many GPUs each has; 1 by default.
    - `attempts`: how many replicas may be lost over one piece, or while they open, one after
        another.

    **Raises:** `InputError` for no replica; `CapabilityError` without the package ray, or for a
    model whose weights cannot be sent.
    """

    def __init__(
        self, source: LMM | Opener, replicas: int, gpus: float | int | None, attempts: int
    ) -> None:
        if replicas < 1 or (gpus is not None and gpus < 0):
            raise InputError(
                f"replicas={replicas} and gpus_per_replica={gpus}: at least 1, and at least 0"
            )
        self.ray = _package()
        self.opener = Packed.of(source) if isinstance(source, LMM) else source
        self.count = replicas
        self.gpus = 1 if gpus is None else gpus
        self.attempts = attempts
        self._tasks: dict[Any, Task] = {}
        self._idle: list[Any] = []
        self._again: deque[Piece] = deque()
        self._losses: Counter[str] = Counter()
        self._model: dict[str, Any] = {}
        self._sinks: SinkDims | None = None
        self._ours = False

    @override
    def __enter__(self) -> "OnRay":
        self._ours = _connect(self.ray)
        try:
            refuse_too_many(self.ray.nodes(), self.count, self.gpus)
            refuse_idle_gpus(self.opener, self.gpus)
            self._source = self.ray.put(self.opener)
            self._kind = self.ray.remote(num_cpus=1, num_gpus=self.gpus)(Replica)
        except BaseException:
            self.__exit__()
            raise
        return self

    @override
    def __exit__(self, *_: object) -> None:
        for replica in (*self._idle, *(task.replica for task in self._tasks.values())):
            with suppress(self.ray.exceptions.RayError):
                self.ray.kill(replica)
        self._tasks, self._idle = {}, []
        if self._ours:
            self.ray.shutdown()

    @override
    def about(self, work: Work) -> dict[str, Any]:
        self._work = self.ray.put(work)
        for _ in range(self.count):
            self.start()
        while not self._idle:
            self._wait()
        return self._model

    @override
    def made(self, work: Work, pieces: Iterable[Piece]) -> Iterator[Any]:
        left = iter(pieces)
        while True:
            while self._idle and (piece := self._next(left)) is not None:
                replica = self._idle.pop()
                task = replica.made.remote(self._work, piece)
                self._tasks[task] = Task(replica, piece.name, piece)
            if self._idle and not any(task.piece for task in self._tasks.values()):
                return
            if (made := self._wait()) is not None:
                yield made

    def _next(self, left: Iterator[Piece]) -> Piece | None:
        return self._again.popleft() if self._again else next(left, None)

    def start(self) -> None:
        """Start a replica, which finds a place when there is one."""
        replica = self._kind.remote()
        self._tasks[replica.placed.remote()] = Task(replica, PLACED)

    def _wait(self) -> Any:
        """What the next task that ends has made, if it did a piece of the work."""
        ready, _ = self.ray.wait([*self._tasks], timeout=PATIENCE)
        if not ready:
            self._refuse_unplaced()
            return None
        task, errors = self._tasks.pop(ready[0]), self.ray.exceptions
        try:
            found = self.ray.get(ready[0])
        except errors.RayTaskError as error:
            if not isinstance(error.cause, MemoryError | torch.OutOfMemoryError):
                raise error.cause or error from error
            self.lost(task, error)
        except errors.RayError as error:
            self.lost(task, error)
        else:
            return self.proceed(task, found)
        return None

    def proceed(self, task: "Task", found: Any) -> Any:
        """Go on with a replica whose task has ended well."""
        if task.name == PLACED:
            asked = self._source, self._work, self._sinks, Path.cwd()
            self._tasks[task.replica.open.remote(*asked)] = Task(task.replica, OPENED)
            return None
        self._idle.append(task.replica)
        if task.piece is not None:
            return found
        about, self._sinks = found
        self._losses[OPENED] = self._losses[PLACED] = 0
        self._model = self._model or about
        if about != self._model:
            differ = [name for name in about if about[name] != self._model.get(name)]
            raise ResultError(
                f"replicas opened different models; they differ in: {', '.join(differ)}. Have the "
                "same weights and packages on all machines"
            )
        return None

    def lost(self, task: "Task", error: Exception) -> None:
        """Replace a replica that is gone or out of memory, and have its piece taken again.

        **Raises:** `UnreachableError` if that was tried often enough.
        """
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(task.replica)
        self._losses[task.name] += 1
        lost = self._losses[task.name]
        if lost >= self.attempts * (1 if task.piece else self.count):
            raise UnreachableError(
                f"{lost} replicas were lost, one after another, over {task.name}: {error}"
            ) from error
        if task.piece is not None:
            self._again.append(task.piece)
        self.start()

    def _refuse_unplaced(self) -> None:
        if all(task.name == PLACED for task in self._tasks.values()):
            raise UnreachableError(
                f"the cluster placed no replica within {PATIENCE:.0f} s: each wants 1 CPU and "
                f"{self.gpus:g} GPU; of {_told(self.ray.cluster_resources())} there is free: "
                f"{_told(self.ray.available_resources())}"
            )


PLACED, OPENED = "finding a place", "opening the model"


@final
@dataclass(frozen=True, eq=False)
class Task:
    """What a replica is at: finding a place, opening the model, or a piece of the work."""

    replica: Any
    name: str
    piece: Piece | None = None


def _package() -> Any:
    """The package ray.

    **Raises:** `CapabilityError` saying how to install it.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise CapabilityError(
            "on='ray' needs the package ray: pip install 'vsink-interp[ray]'"
        ) from error
    return ray


def _connect(ray: Any) -> bool:
    """Connect to the cluster that is there, or start one here; whether this process did.

    **Raises:** `UnreachableError` if the cluster that `RAY_ADDRESS` names does not answer.
    """
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError as error:
        if address := os.environ.get("RAY_ADDRESS"):
            raise UnreachableError(
                f"no Ray cluster answers at RAY_ADDRESS={address}; start one there, or unset it"
            ) from error
        with _no_statistics():
            ray.init(address="local", include_dashboard=False, **quiet)
    return True


@contextmanager
def _no_statistics() -> Generator[None]:
    """Ray sends usage statistics home by itself; what is started inside does not."""
    name = "RAY_USAGE_STATS_ENABLED"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def refuse_too_many(nodes: list[dict[str, Any]], replicas: int, gpus: float | int) -> None:
    """Refuse replicas for which the machines of the cluster have no room, however long they wait.

    **Raises:** `CapabilityError` listing what they have.
    """
    held = [node["Resources"] for node in nodes if node["Alive"]]
    room = sum(
        int(min(one.get("CPU", 0), one.get("GPU", 0) / gpus if gpus else one.get("CPU", 0)))
        for one in held
    )
    if room >= replicas:
        return
    hint = "" if any(one.get("GPU") for one in held) else "; without GPUs say gpus_per_replica=0"
    raise CapabilityError(
        f"{replicas} replicas with 1 CPU and {gpus:g} GPU each, and the cluster has room for "
        f"{room}: {'; '.join(map(_told, held))}{hint}"
    )


def refuse_idle_gpus(opener: Opener, gpus: float | int) -> None:
    """Refuse GPUs for copies of a model that lies on the CPU: they would hold them and stay there.

    **Raises:** `InputError` saying what to ask for instead.
    """
    if gpus and isinstance(opener, Packed) and opener.hf_model.device.type == "cpu":
        raise InputError(
            f"{opener.name} is on the CPU, and so are the copies that are sent of it: say "
            "gpus_per_replica=0, or give a function that opens it on a GPU: "
            "functools.partial(vi.LMM.from_pretrained, repo, device='cuda')"
        )


def _told(resources: Mapping[str, float | int]) -> str:
    return f"{resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU"
