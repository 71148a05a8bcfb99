"""One JSON object on stdout and nothing else: what `--json` promises to whoever reads it.

File descriptor 1 is pointed at stderr, so that prints, workers and C libraries cannot get into the line.
"""

import json
import os
import sys
import traceback
from typing import Any

from llmagentos.core.errors import ConfigError, LLMAgentOSError

DONE, FAILED, USAGE = 0, 1, 2


class Line:
    """The real stdout, kept aside."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._out = os.dup(1)
        self._said = False
        os.dup2(2, 1)

    def write(self, value: dict[str, Any]) -> None:
        """Print the object as the one line; nothing where it is said. NaN and infinity become null, which JSON cannot say."""
        if self._said:
            return
        self._said = True
        text = json.dumps(_finite(value), ensure_ascii=False, default=str) + "\n"
        data = text.encode("utf-8", "replace")
        while data:
            data = data[os.write(self._out, data) :]


def ended(error: BaseException, line: Line | None) -> int:
    """Say on stderr, and on the line if there is one, what ended a command. Returns the exit code."""
    explain_usage = getattr(error, "format_message", None)
    if explain_usage:
        said = explain_usage().rstrip(".") or "a command is missing"
        error = ConfigError(f"{said}.", hint="See `llmagentos --help`.")
        error.code = "usage"
    elif isinstance(error, SystemExit) or hasattr(error, "exit_code"):
        code = getattr(error, "exit_code", getattr(error, "code", FAILED))
        return code if isinstance(code, int) else FAILED
    report(error)
    if line:
        line.write(error_object(error))
    return exit_code(error)


def error_object(error: BaseException) -> dict[str, Any]:
    """{"error": {code, message, hint}}."""
    if isinstance(error, LLMAgentOSError):
        return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    return {"error": {"code": "internal", "message": f"{type(error).__name__}: {error}", "hint": ""}}


def exit_code(error: BaseException) -> int:
    return USAGE if isinstance(error, ConfigError) else FAILED


def report(error: BaseException) -> None:
    """Tell a person on stderr; a traceback only for what nobody foresaw."""
    if isinstance(error, LLMAgentOSError):
        print(f"llmagentos: {error}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print("llmagentos: interrupted", file=sys.stderr)
    else:
        traceback.print_exception(error, file=sys.stderr)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
