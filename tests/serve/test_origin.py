from collections.abc import Callable

import pytest

from llmagentos.serve.errors import ApiError
from llmagentos.serve.origin import check_own
from tests.serve.conftest import Served, chat

ELSEWHERE = {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site"}


@pytest.mark.parametrize(
    "host", ["", "localhost", "LocalHost:8000", "agent.localhost:1", "127.8.8.8:8000", "[::1]:8000", "0.0.0.0:8000", "localhost."]
)
def test_programs_and_our_own_page_may_ask(host: str):
    for headers in ({}, {"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin", "origin": f"http://{host}"}):
        check_own({**headers, "host": host})


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"sec-fetch-site": "cross-site"}, "sec-fetch-site"),
        ({"sec-fetch-site": "same-site"}, "sec-fetch-site"),
        ({"origin": "https://shop.example"}, "origin"),
        ({"origin": "http://localhost:3000"}, "origin"),
        ({"origin": "null"}, "origin"),
        ({"host": "shop.example:8000", "origin": "http://shop.example:8000", "sec-fetch-site": "same-origin"}, "host"),
        ({"host": "localhost.shop.example"}, "host"),
        ({"host": "10.0.0.1"}, "host"),
        ({"host": "[::1"}, "host"),
    ],
)
def test_another_page_and_another_name_may_not(headers: dict[str, str], named: str):
    with pytest.raises(ApiError) as caught:
        check_own({"host": "localhost:8000", **headers})
    assert (caught.value.status, caught.value.param, caught.value.code) == (403, named, "origin_not_allowed")


def test_a_page_elsewhere_moves_and_reads_nothing_where_no_key_is_needed(local: Served):
    with local.client() as client:
        for headers in (ELSEWHERE, {"Host": "shop.example"}):
            assert client.post("/v1/rollback", headers=headers).status_code == 403
            refused = client.get("/v1/status", headers=headers)
            assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
            assert [client.get(path, headers=headers).status_code for path in ("/healthz", "/readyz", "/")] == [200] * 3
        own = {"Origin": local.url, "Sec-Fetch-Site": "same-origin"}
        assert client.post("/v1/chat/completions", json=chat(), headers=own).status_code == 200


def test_who_has_a_key_may_ask_from_anywhere(start: Callable[..., Served]):
    with start(key="k").client(Authorization="Bearer k", Host="agent.example", **ELSEWHERE) as client:
        assert client.get("/v1/models").status_code == 200
