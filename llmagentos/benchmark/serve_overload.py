"""Ten times what the app can do: is the excess refused at once, and does whoever is let in notice?"""

from collections.abc import Sequence

from llmagentos.benchmark.serve_bare import Asked
from llmagentos.benchmark.serve_client import Heard
from llmagentos.benchmark.serve_figures import Figure, Found, lasted, quantile, ratios
from llmagentos.benchmark.serve_place import Place

TIMES = 10
_REFUSED_MS = 50
_SLOWER = 2.0
_GROWTH = 1.05
_REFUSED = 429


def measure(there: Place, asked: Sequence[Asked], rounds: int, seconds: float) -> Found:
    """In turn, each for `seconds`: as many clients as there are places at work, and ten times the requests they got done."""
    ongoing = there.config.serve.max_ongoing
    full = there.load(asked, clients=ongoing, seconds=seconds)
    there.client.send(full)
    capacity, loads, memory = [], [], [there.resident_mib()]
    for _ in range(rounds):
        capacity.append(there.client.send(full))
        done = per_second([one for one in capacity[-1] if one.ok])
        loads.append(there.client.send(there.load(asked, rate=TIMES * done, seconds=seconds)))
        memory.append(there.resident_mib())
    accepted = [[one for one in heard if one.ok] for heard in loads]
    refused = [[one for one in heard if one.status == _REFUSED] for heard in loads]
    slow = {"full": [slowest(heard) for heard in capacity], "overload": [slowest(heard) for heard in accepted]}
    lost = [len(heard) - len(a) - len(r) for heard, a, r in zip(loads, accepted, refused, strict=True)]
    figures = [
        Figure("refusal p99", [1000 * slowest(heard) for heard in refused], "ms", most=_REFUSED_MS),
        Figure("accepted p99 over capacity's", ratios(slow["overload"], slow["full"]), most=_SLOWER),
        Figure("neither answered nor refused", lost, "requests", most=0),
        Figure("memory over before", [after / memory[0] for after in memory[1:]], most=_GROWTH),
    ]
    facts = {
        "at_capacity_per_second": [round(per_second(heard), 1) for heard in capacity],
        "sent_per_second": [round(len(heard) / seconds, 1) for heard in loads],
        "accepted": [len(heard) for heard in accepted],
        "refused": [len(heard) for heard in refused],
        "p99_seconds": {name: [round(v, 3) for v in values] for name, values in slow.items()},
        "resident_mib": [round(value) for value in memory],
    }
    return Found(figures, facts)


def slowest(heard: Sequence[Heard]) -> float:
    """Seconds of the 99th percentile; 0 without any."""
    return quantile((one.seconds for one in heard), 0.99) if heard else 0.0


def per_second(heard: Sequence[Heard]) -> float:
    """Requests a second from the first one sent to the last one complete."""
    return len(heard) / lasted(heard)
