import asyncio

import httpx
import pytest

from llmagentos.core.errors import CapacityError, InputError
from llmagentos.local.simulate import post


def asked(answer) -> dict:
    async def story() -> dict:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://agent") as http:
            return await post(http, "/v1/feedback", {}, {})

    return asyncio.run(story())


def test_who_is_busy_is_asked_again_after_what_it_asks_for():
    replies = iter([httpx.Response(429, headers={"Retry-After": "0"}), httpx.Response(200, json={"a": 1})])
    assert asked(lambda request: next(replies)) == {"a": 1}


def test_a_refusal_and_silence_say_what_to_do():
    with pytest.raises(InputError, match=r"refused with 401: no key.*LLMAGENTOS_API_KEY"):
        asked(lambda request: httpx.Response(401, text="no key"))

    def nobody(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(CapacityError, match=r"does not answer at http://agent.*connection refused.*llmagentos up"):
        asked(nobody)
