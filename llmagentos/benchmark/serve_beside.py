"""A whole cycle beside the chat, on the same cores: what does learning cost whoever asks meanwhile?

Questions come at a steady rate; a time without and a whole cycle take turns. Nothing has cores of its own here: server,
client, train workers and evaluation share them all, as on a machine where nobody pins anything.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from llmagentos.benchmark.life import teach
from llmagentos.benchmark.serve_bare import Asked
from llmagentos.benchmark.serve_client import Heard
from llmagentos.benchmark.serve_figures import Figure, Found, alternate, lasted, quantile, ratios
from llmagentos.benchmark.serve_overload import slowest
from llmagentos.benchmark.serve_place import Place
from llmagentos.core.errors import TrainingError
from llmagentos.local import steps
from llmagentos.scenarios.customer_service.customers import day_two

_SLOWER = 1.5
_ROWS = 200
_ENDLESS = 3600.0


def measure(there: Place, asked: Sequence[Asked], rounds: int, rate: float, seconds: float) -> Found:
    """In turn: `rate` questions a second beside a cycle, and alone for as long as the last cycle took, `seconds` at least.

    As long, for of fewer requests the slowest hundredth is nearer to the middle. Raises TrainingError.
    """
    there.share()
    days = map(_day, range(rounds + 1))
    took: list[float] = []

    def beside_a_cycle() -> list[Heard]:
        heard = _with_a_cycle(there, asked, rate, next(days))
        took.append(lasted(heard))
        return heard

    beside_a_cycle()  # warms both sides
    sides = {
        "idle": lambda: there.client.send(there.load(asked, rate=rate, seconds=max(seconds, took[-1]))),
        "cycle": beside_a_cycle,
    }
    phases: dict[str, list[list[Heard]]] = alternate(rounds, sides, warm=False)
    there.pin()
    slow = {name: [slowest(heard) for heard in each] for name, each in phases.items()}
    beside = phases["cycle"]
    failed = [sum(not one.ok for one in heard) for heard in beside]
    figures = [
        Figure("chat p99 beside a cycle over idle", ratios(slow["cycle"], slow["idle"]), most=_SLOWER),
        Figure("failed beside a cycle", failed, "requests", most=0),
    ]
    facts = {
        "requests_per_second": rate,
        "asked": {name: [len(heard) for heard in each] for name, each in phases.items()},
        "p50_ms": {
            name: [round(1000 * quantile((one.seconds for one in heard), 0.5), 1) for heard in each]
            for name, each in phases.items()
        },
        "p99_ms": {name: [round(1000 * value, 1) for value in values] for name, values in slow.items()},
        "cycle_seconds": [round(lasted(heard), 1) for heard in beside],
        "versions": len({one.reply().get("model_version") for heard in beside for one in heard if one.ok}),
    }
    return Found(figures, facts)


def _day(number: int) -> list[dict[str, object]]:
    """Demonstrations about things that moved in the shop, other ones each time."""
    visits = day_two(100 + number).visits(3 * _ROWS)
    return [v.question.row(session_id=v.session) for v in visits if v.question.key and v.mistaken is None][:_ROWS]


def _with_a_cycle(there: Place, asked: Sequence[Asked], rate: float, day: list[dict[str, object]]) -> list[Heard]:
    teach(there.config, day)
    # In a process of its own nothing heavy is imported before it gives way, as with the command.
    spawning = multiprocessing.get_context("spawn")
    with (
        there.client.sending(there.load(asked, rate=rate, seconds=_ENDLESS)) as heard,
        ProcessPoolExecutor(1, mp_context=spawning) as apart,
    ):
        result = apart.submit(steps.cycle, there.config).result()
        there.client.stop()
        answered = heard()
    if result["challenger"] is None:
        raise TrainingError(f"nothing was trained beside the chat: {result['decision']}, {'; '.join(result['reasons'])}.")
    return answered
