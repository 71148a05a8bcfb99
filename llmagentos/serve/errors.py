"""Every failure as OpenAI's error body. Bad input is a 4xx that names the field; a 5xx is our own fault or no room."""

import errno
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from llmagentos.core.errors import (
    CapacityError,
    ConflictError,
    DiskError,
    InputError,
    IntegrityError,
    LLMAgentOSError,
    NotFoundError,
)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    507: "insufficient_storage_error",
}
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""A disk that is full, read-only or failing."""
_RETRY_SECONDS = {429: "1", 503: "2"}


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = str(retry_after) if retry_after else _RETRY_SECONDS.get(status)
        """Seconds after which it makes sense to ask again."""
        self.allow = allow
        """The methods that the route takes, where it was asked with another."""

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        told = {"Retry-After": self.retry_after, "Allow": self.allow}
        return JSONResponse(self.body(), self.status, {name: value for name, value in told.items() if value})


def other_body() -> ApiError:
    return ApiError(409, "this Idempotency-Key was used with another body.", code="idempotency_conflict", param="Idempotency-Key")


def other_version(version: int) -> ApiError:
    message = f"version {version} answered under this Idempotency-Key, is gone, and its words were not kept; ask under another."
    return ApiError(409, message, code="idempotency_conflict", param="Idempotency-Key")


def api_error(error: Exception) -> ApiError:
    """Which answer an exception is."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        codes = {404: "unknown_url", 405: "method_not_allowed"}
        allow = (error.headers or {}).get("Allow")
        said = {404: "there is no such route.", 405: f"this route takes {allow} only."}
        message = said.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, message, code=codes.get(error.status_code), allow=allow)
    if isinstance(error, InputError):
        return ApiError(400, str(error), code=error.code, param=error.field)
    if isinstance(error, LLMAgentOSError):
        field = error.field if isinstance(error, NotFoundError) else None
        return ApiError(_status(error), str(error), code=error.code, param=field)
    if isinstance(error, OSError) and error.errno in _DISK:
        return ApiError(507, f"the disk cannot be written ({error.strerror}).", code=DiskError.code)
    return ApiError(500, "internal error; the server's log has it under the interaction's id.", code="internal_error")


def _status(error: LLMAgentOSError) -> int:
    kinds: tuple[tuple[type[LLMAgentOSError], int], ...] = (
        (NotFoundError, 404),
        (ConflictError, 409),
        (DiskError, 507),
        (CapacityError, 503),
        (IntegrityError, 503),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), 500)
