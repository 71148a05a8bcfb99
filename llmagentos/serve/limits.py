"""How long a request may take: its body to arrive, and then its answer to be ready."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from llmagentos.serve.errors import ApiError


def arriving(seconds: float) -> AbstractAsyncContextManager[None]:
    """For the reading of a body. Raises ApiError 408 once it takes longer."""
    message = f"the body did not arrive within {seconds:g} s (serve.request_seconds)."
    return _within(seconds, ApiError(408, message, param="body", code="request_timeout"))


def answering(seconds: float) -> AbstractAsyncContextManager[None]:
    """For waiting for a turn and generating, which are cancelled once it takes longer. Raises ApiError 503 then."""
    message = f"the answer was not ready within {seconds:g} s (serve.request_seconds); ask for fewer tokens, or later."
    return _within(seconds, ApiError(503, message, code="answer_timeout"))


@contextlib.asynccontextmanager
async def _within(seconds: float, late: ApiError) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise late from None
        raise
