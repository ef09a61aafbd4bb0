"""Where the runs of a model execute: in this process, or on a server that hosts it."""

from typing import Any, Literal, TypeAlias, final

from ..engine import HookedModel, Outcome, execute
from ..errors import CapabilityError, InputError
from ..remote import Hosted, Later, Server, compile_run, read_back
from .execution import Executor

Where: TypeAlias = bool | str | Server | None
"""True for the NDIF server in nnsight's configuration, an address, or a `Server`; False for this
process; None for what the model was opened with."""
AsJob: TypeAlias = Literal["job"] | Later
"""A run that is sent without waiting for it: `"job"`, to the server that the model was opened with
or else to the one in nnsight's configuration; or `Server(address).job`, to that server."""


@final
class RemoteExecutor:
    """A replacement for `execute`: sends the run, waits, and reads the result."""

    def __init__(self, server: Server, hosted: Hosted, *, allow_large: bool) -> None:
        self.server = server
        self.hosted = hosted
        self.allow_large = allow_large

    def __call__(self, hooked: Any, *args: Any) -> Outcome:
        """Execute one run; arguments as for `execute`."""
        request = compile_run(hooked, self.hosted, *args)
        job = self.server.submit(self.hosted, [request], allow_large=self.allow_large)
        expected = sum(request.sizes.values())
        (state,) = self.server.collected(job, 1, expected)
        return read_back(state)(hooked, *args)


@final
class Backend:
    """Where a model's runs go.

    **Arguments:**

    - `hooked`: the model.
    - `opened_with`: where they go if a run gives no `remote=`.
    """

    def __init__(self, hooked: HookedModel, opened_with: Where = False) -> None:
        self.hooked = hooked
        self.opened_with = opened_with
        self._hosted: Hosted | None = None
        self._servers: dict[str | None, Server] = {}

    def later(self, remote: Where | AsJob) -> Server | None:
        """The server of a run that is not waited for; None for all other runs."""
        if isinstance(remote, Later):
            return remote.server
        return (self.server(None) or self.server(True)) if remote == "job" else None

    def server(self, remote: Where | AsJob) -> Server | None:
        """The server that `remote` stands for; None for this process.

        **Raises:** `CapabilityError` for a model without weights if there is no server;
        `InputError` for a job where none can be returned.
        """
        refuse_job(remote)
        where = self.opened_with if remote is None else remote
        if isinstance(where, Server):
            return where
        if where is False or where is None:
            if self.hooked.weightless:
                raise CapabilityError(
                    "this model was opened without weights, to run on a server; say remote=True or "
                    "an address, or open it with from_pretrained(...) alone"
                )
            return None
        address = where if isinstance(where, str) else None
        if address not in self._servers:
            self._servers[address] = Server(address)
        return self._servers[address]

    def refuse_seed(self, seed: int | None, remote: Where | AsJob) -> None:
        """Refuse a seed for a run on a server.

        **Raises:** `CapabilityError`.
        """
        if seed is not None and (self.later(remote) or self.server(remote)):
            raise CapabilityError(
                "a seed sets the random generator of this process, and a server has its own"
            )

    def require_here(self, what: str, instead: str) -> None:
        """Refuse an operation that needs local weights if runs go to a server.

        **Raises:** `CapabilityError` saying what to do instead.
        """
        if self.server(None) is not None:
            raise CapabilityError(
                f"{what} needs the model here, and its runs go to a server: {instead}"
            )

    @property
    def hosted(self) -> Hosted:
        """The model as a server hosts it.

        **Raises:** `CapabilityError` for a model without a name.
        """
        if self._hosted is None:
            name = self.hooked.hf_model.config.name_or_path
            if not name:
                raise CapabilityError(
                    "a server knows models by their names, and this one has none; open it with "
                    "LMM.from_pretrained"
                )
            attention = self.hooked.config._attn_implementation
            self._hosted = Hosted(name, self.hooked.processor, attn_implementation=attention)
        return self._hosted

    @hosted.setter
    def hosted(self, hosted: Hosted) -> None:
        self._hosted = hosted

    def executor(self, remote: Where | AsJob, *, allow_large: bool) -> Executor:
        """The function that executes a run.

        **Raises:** as `server`; `InputError` for `allow_large` without one.
        """
        server = self.server(remote)
        if server is None and allow_large:
            raise InputError(
                "allow_large concerns results of a server, and this run is local; give remote=... "
                "as well, or leave it out"
            )
        if server is None:
            return execute
        return RemoteExecutor(server, self.hosted, allow_large=allow_large)


def refuse_job(remote: Where | AsJob) -> None:
    """Refuse `remote="job"` where runs are waited for or collected.

    **Raises:** `InputError` naming the calls that return jobs.
    """
    if remote == "job" or isinstance(remote, Later):
        raise InputError(
            "run and generate give a job for remote='job', and a session by submit(); here say "
            "True, an address, or a Server"
        )
