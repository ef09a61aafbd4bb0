"""`vsink remote`: the models that an NDIF server hosts, and its package versions."""

from typing import Annotated, Any

import typer

import vsink_interp as vi

from .terminal import Command, Commands, JsonOption, show

remote = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="An NDIF server: its models, and whether package versions match. Uses the network.",
)

KEYS = {
    True: "known and trusted",
    False: "known; its code runs in a sandbox, without gradients",
    None: "not known here, or none is asked for; set one with nnsight.login()",
}
"""What the server says of the user's key."""
HostOption = Annotated[
    str | None,
    typer.Option("--host", help="An address; by default, the server in nnsight's configuration."),
]


@remote.command(cls=Command)
def status(host: HostOption = None, as_json: JsonOption = False) -> None:
    """Whether the server answers and knows your key, and its versions beside ours."""
    server = vi.Server(host, patience=5.0)
    found: dict[str, Any] = {"host": server.host, "deployments": len(server.models())}
    found["key"] = KEYS[server.trusts]
    for name, (ours, theirs) in server.packages().items():
        found[name] = theirs if ours == theirs else f"{theirs}, here {ours}"
    show(found, as_json)


@remote.command(cls=Command)
def models(host: HostOption = None, as_json: JsonOption = False) -> None:
    """Every model for images and text that the server hosts."""
    kept = ("repo_id", "revision", "deployment_level", "application_state")
    found = [
        {name: deployed.get(name) for name in kept}
        for deployed in vi.Server(host, patience=5.0).models()
        if deployed.get("task") == "image-text-to-text"
    ]
    if as_json:
        show({"models": found}, as_json)
        return
    if not found:
        typer.echo(
            "none is up; NDIF may still load one that it is asked for, which takes minutes",
            err=True,
        )
    for row in found:
        typer.echo("  ".join(str(value) for value in row.values() if value))
