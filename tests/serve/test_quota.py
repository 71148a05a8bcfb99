import pytest

from llmagentos.serve import keys
from llmagentos.serve.errors import ApiError
from llmagentos.serve.keys import Key
from llmagentos.serve.quota import Quotas
from tests.serve.conftest import chat, new_home

DAY = 86_400


class Clock:
    """Seconds that pass when told to."""

    def __init__(self, at: float = 0.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def refusal(quotas: Quotas, key: Key) -> ApiError | None:
    try:
        quotas.take(key)
    except ApiError as error:
        return error
    return None


def test_a_bucket_empties_and_fills():
    clock = Clock()
    quotas, key = Quotas(clock), Key(name="k", role="chat", per_minute=6)
    assert [refusal(quotas, key) for _ in range(6)] == [None] * 6
    refused = refusal(quotas, key)
    assert refused is not None
    assert (refused.status, refused.code, refused.response().headers["retry-after"]) == (429, "rate_limit_exceeded", "10")
    clock.at = 9.9
    assert refusal(quotas, key) is not None
    clock.at = 10.1
    assert refusal(quotas, key) is None
    assert refusal(quotas, key) is not None
    clock.at = 1_000_000.0
    assert [refusal(quotas, key) is None for _ in range(7)] == [True] * 6 + [False]


def test_keys_do_not_share_a_bucket_and_no_limit_is_none():
    quotas = Quotas(Clock())
    one, two, free = (Key(name=n, role="chat", per_minute=m) for n, m in (("a", 1), ("b", 1), ("c", None)))
    assert [refusal(quotas, key) for key in (one, two)] == [None, None]
    assert all(refusal(quotas, key) for key in (one, two))
    assert [refusal(quotas, free) for _ in range(100)] == [None] * 100


def test_tokens_of_a_day_begin_anew_at_midnight():
    now = Clock(10 * DAY + 3600.0)
    quotas, key = Quotas(Clock(), now), Key(name="k", role="chat", tokens_per_day=10)
    quotas.spend(key, 9)
    quotas.check(key)
    quotas.spend(key, 5)  # an answer may end beyond the quota
    assert quotas.spent(key) == 14
    with pytest.raises(ApiError) as caught:
        quotas.check(key)
    assert (caught.value.status, caught.value.code) == (429, "insufficient_quota")
    assert caught.value.retry_after == str(23 * 3600)
    now.at = 11.0 * DAY
    quotas.check(key)
    assert quotas.spent(key) == 0


def test_without_a_quota_nothing_is_counted():
    quotas, key = Quotas(), Key(name="k", role="chat")
    quotas.spend(key, 10**9)
    quotas.check(key)
    assert quotas.spent(key) == 0


def test_what_was_answered_is_told_again_where_nothing_more_may_be_asked(start, tmp_path):
    home = new_home(tmp_path)
    _, secret = keys.add(home, "short", "chat", tokens_per_day=1)
    with start(home=home).client(Authorization=f"Bearer {secret}") as client:
        first, again = (client.post("/v1/chat/completions", json=chat(), headers={"Idempotency-Key": "k"}) for _ in "ab")
        assert client.post("/v1/chat/completions", json=chat()).json()["error"]["code"] == "insufficient_quota"
    assert (again.status_code, again.headers.get("x-replayed")) == (200, "true")
    assert again.json()["choices"] == first.json()["choices"]
