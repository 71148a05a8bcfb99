"""Every error the product raises on purpose, in one tree.

    LLMAgentOSError
    ├── ConfigError      a setting is unknown, out of range or contradicts another          exit 2
    ├── InputError       a request, row or file is wrong; names the field                   HTTP 400
    ├── NotFoundError    no such version, interaction, suite or file                        HTTP 404
    ├── ConflictError    somebody else got there first, or the state forbids it             HTTP 409
    │   └── LeaseLostError   this process no longer owns the cycle it was running
    ├── IntegrityError   stored bytes are not what their manifest promises
    ├── CapacityError    no room: a full queue, a taken port                                HTTP 503
    │   └── DiskError        the disk is full or failing: nothing was written                   HTTP 507
    └── TrainingError    an update cannot go on: NaN loss, no supervised token
        └── WorkersLostError its workers ended without a reason of their own

A message says what was wrong, with the value; `hint` says what to do about it.
"""

import errno


class LLMAgentOSError(Exception):
    """Base of all; `str()` is the message with the hint after it."""

    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ConfigError(LLMAgentOSError):
    code = "config"


class InputError(LLMAgentOSError):
    """Bad input. `field` is a dotted path (`messages.0.role`), `line` the 1-based line of a file."""

    code = "invalid_request"

    def __init__(self, message: str, *, field: str | None = None, line: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field
        self.line = line


class NotFoundError(LLMAgentOSError):
    """`field` is what named it in a request."""

    code = "not_found"

    def __init__(self, message: str, *, field: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field


class ConflictError(LLMAgentOSError):
    code = "conflict"

    def __init__(self, message: str, *, code: str = "conflict", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class LeaseLostError(ConflictError):
    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="lease_lost", hint=hint)


class IntegrityError(LLMAgentOSError):
    code = "integrity"


class CapacityError(LLMAgentOSError):
    code = "capacity"


class DiskError(CapacityError):
    code = "insufficient_storage"


class TrainingError(LLMAgentOSError):
    code = "training"


class WorkersLostError(TrainingError):
    pass


_OF_THE_MACHINE = {"OSError", "MemoryError", "ImportError", "OutOfMemoryError", "AcceleratorError"}


def of_the_machine(error: BaseException) -> bool:
    """Whether a failure is the machine's, whatever the rows are: its disk, its memory or a GPU's, what is not installed."""
    return any(kind.__name__ in _OF_THE_MACHINE for kind in type(error).__mro__)


_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def no_room(error: BaseException) -> bool:
    """Whether a machine has no memory or file descriptor to spare just now, which tells nothing of what was to be read."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    # torch says so of a CPU in a RuntimeError
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
