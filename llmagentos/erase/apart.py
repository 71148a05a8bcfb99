"""An erasure in a process of its own, for a service whose answers must not wait for it.

Whom it is of is told on standard input: arguments of a process can be read by everybody on the machine.
"""

import asyncio
import json
import os
import sys
from typing import Any

from llmagentos.config import Config
from llmagentos.core import errors
from llmagentos.core.errors import CapacityError, LLMAgentOSError


async def erase_apart(config: Config, user: str, *, tenant: str, by: str) -> dict[str, Any]:
    """The receipt. Raises what `erase` does, and CapacityError where the process ended without a word."""
    told = {"config": config.model_dump(mode="json"), "user": user, "tenant": tenant, "by": by}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(json.dumps(told).encode())
    try:
        said: dict[str, Any] = json.loads(out)
    except ValueError:
        raise CapacityError("the erasure was interrupted.", hint="Ask again: it is gone on with.") from None
    if "error" in said:
        raise _error(**said["error"])
    return said


def _error(kind: str, message: str, hint: str, code: str) -> LLMAgentOSError:
    made = getattr(errors, kind)(message, hint=hint)
    made.code = code
    return made  # type: ignore[no-any-return]


def _main() -> None:
    line = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is not the receipt
    from llmagentos.erase.erase import erase

    told = json.load(sys.stdin)
    try:
        said = erase(Config.model_validate(told.pop("config")), told.pop("user"), **told)
    except LLMAgentOSError as error:
        named = {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "code": error.code}
        said = {"error": named}
    os.write(line, json.dumps(said, ensure_ascii=False).encode())


if __name__ == "__main__":
    _main()
