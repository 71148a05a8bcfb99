"""How much a key may ask for: requests a minute, answer tokens a day.

Both are counted by each replica for itself and in memory: n replicas let n times as much through, and a replica that
starts anew begins at zero. They protect the machine; they are no bill.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from llmagentos.serve.errors import ApiError
from llmagentos.serve.keys import Key

_MINUTE, _DAY = 60.0, 86_400.0


@dataclass
class _Bucket:
    level: float
    at: float


class Quotas:
    """What every key has used. `clock` gives monotonic seconds, `now` Unix seconds; a day is one of UTC."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> None:
        self._clock, self._now = clock, now
        self._buckets: dict[str, _Bucket] = {}
        self._spent: dict[str, tuple[int, int]] = {}
        """Key -> day, answer tokens of it."""

    def take(self, key: Key) -> None:
        """Count one request: a bucket of `per_minute` that fills as fast. Raises ApiError 429 when it is empty."""
        if key.per_minute is None:
            return
        at, rate = self._clock(), key.per_minute / _MINUTE
        bucket = self._buckets.setdefault(key.name, _Bucket(key.per_minute, at))
        bucket.level = min(float(key.per_minute), bucket.level + (at - bucket.at) * rate)
        bucket.at = at
        if bucket.level < 1:
            wait = math.ceil((1 - bucket.level) / rate)
            message = f"the key {key.name!r} may ask {key.per_minute} times a minute; ask again in {wait} s."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=wait)
        bucket.level -= 1

    def check(self, key: Key) -> None:
        """Raises ApiError 429 once the day's answer tokens are used up; an answer under way is never cut short."""
        if key.tokens_per_day is None or self.spent(key) < key.tokens_per_day:
            return
        message = f"the key {key.name!r} has used its {key.tokens_per_day} answer tokens of today (UTC)."
        wait = math.ceil(_DAY - self._now() % _DAY)
        raise ApiError(429, message, code="insufficient_quota", retry_after=wait)

    def spend(self, key: Key, tokens: int) -> None:
        """Count answer tokens."""
        if key.tokens_per_day is not None:
            self._spent[key.name] = self._today(), self.spent(key) + tokens

    def spent(self, key: Key) -> int:
        """Answer tokens of this key today."""
        day, tokens = self._spent.get(key.name, (-1, 0))
        return tokens if day == self._today() else 0

    def _today(self) -> int:
        return int(self._now() // _DAY)
