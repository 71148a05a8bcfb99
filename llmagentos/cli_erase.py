"""The command that erases a person; the command line hands in how it reads its configuration and tells its results."""

from collections.abc import Callable
from typing import Annotated

import typer

from llmagentos.cli_options import File, Json, Overrides
from llmagentos.config import Config
from llmagentos.core.errors import ConfigError, InputError

User = Annotated[str, typer.Option("--user", help="user id: `user`, X-User-Id or metadata.user_id of what they said")]
Tenant = Annotated[str, typer.Option(help="whose user: the tenant of the key that they were served under")]
Reason = Annotated[str, typer.Option("--reason", help="kept with the receipt; it must not name the user")]


def command(read: Callable[[str | None, list[str] | None], Config], tell: Callable[..., None]) -> Callable[..., None]:
    """`erase`."""

    def erase(
        user: User,
        overrides: Overrides = None,
        tenant: Tenant = "default",
        reason: Reason = "",
        config: File = None,
        json: Json = False,
    ) -> None:
        """Take all that a person ever said out of everything, and have versions that learned it rebuilt."""
        from llmagentos.erase.erase import erase as run

        try:
            tell(run(read(config, overrides), user, tenant=tenant, reason=reason))
        except InputError as error:
            raise ConfigError(error.message, hint=error.hint) from None

    return erase
