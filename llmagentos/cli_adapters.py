"""The commands about adapters; the command line hands in how it reads its configuration and tells its results."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from llmagentos.cli_options import File, Json, Overrides, Reason
from llmagentos.config import Config

Tenant = Annotated[str | None, typer.Option(help="whose requests: the tenant of their key")]
Scenario = Annotated[str | None, typer.Option(help="which requests: those with this metadata.scenario")]
Read = Callable[[str | None, list[str] | None], Config]
Tell = Callable[..., None]


def commands(read: Read, tell: Tell) -> typer.Typer:
    """`add`, `assign`, `remove` and `list`."""
    app = typer.Typer(no_args_is_help=True, help="Adapters that answer for one tenant or scenario in the champion's place.")

    @app.command()
    def add(
        folder: Annotated[Path, typer.Argument(help="as PEFT's save_pretrained() left it")],
        overrides: Overrides = None,
        base: Annotated[str, typer.Option(help="number or alias of the version it was trained on")] = "champion",
        config: File = None,
        json: Json = False,
    ) -> None:
        """Make a LoRA adapter a version, bound to its base for ever."""
        from llmagentos.local import adapters

        tell(adapters.add(read(config, overrides), folder, base))

    @app.command()
    def assign(
        version: Annotated[int, typer.Argument(help="the adapter's number")],
        overrides: Overrides = None,
        tenant: Tenant = None,
        scenario: Scenario = None,
        reason: Reason = "",
        config: File = None,
        json: Json = False,
    ) -> None:
        """Let an adapter answer for a tenant or a scenario."""
        from llmagentos.local import adapters

        tell(adapters.assign(read(config, overrides), version, tenant, scenario, reason))

    @app.command()
    def remove(
        overrides: Overrides = None,
        tenant: Tenant = None,
        scenario: Scenario = None,
        reason: Reason = "",
        config: File = None,
        json: Json = False,
    ) -> None:
        """Let the champion answer for it again."""
        from llmagentos.local import adapters

        tell(adapters.remove(read(config, overrides), tenant, scenario, reason))

    @app.command("list")
    def listing(overrides: Overrides = None, config: File = None, json: Json = False) -> None:
        """Adapters, their bases and whom they answer for."""
        from llmagentos.local import adapters, show

        tell(adapters.listing(read(config, overrides)), show.adapters)

    return app
