"""The options that every command has."""

from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...", help="settings", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", help="kept with the release")]
File = Annotated[str | None, typer.Option("--config", help="YAML file with settings", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, everything else on stderr")]
