"""The frame around jobs/*.py: `--config`, `--json` and overrides in, one JSON line and an exit code out."""

import argparse
from collections.abc import Callable
from typing import Any

from llmagentos.config import Config, load_config
from llmagentos.local import output


def parser(description: str | None) -> argparse.ArgumentParser:
    """What every job understands; a job adds its own options."""
    made = argparse.ArgumentParser(description=(description or "").strip().splitlines()[0])
    made.add_argument("--config", help="YAML file with the settings")
    made.add_argument("--json", action="store_true", help="accepted for symmetry: a job always prints one JSON line")
    return made


def main(made: argparse.ArgumentParser, run: Callable[[Config, argparse.Namespace], dict[str, Any]]) -> int:
    """Run a job. Returns the exit code: 0 done, 1 failed, 2 wrong usage or configuration."""
    made.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that go before the file's")
    arguments = made.parse_intermixed_args()
    line = output.Line()
    try:
        line.write(run(load_config(arguments.config, arguments.overrides), arguments))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the process's edge
        output.report(error)
        line.write(output.error_object(error))
        return output.exit_code(error)
    return output.DONE
