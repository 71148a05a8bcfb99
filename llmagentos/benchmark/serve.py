"""Serving measured: what HTTP, Serve and recording cost over the bare engine; what switches, overload and a cycle do to it.

The product's own app on a real local Serve, started in a fresh home; the client in a process of its own; the engine on one
core on either side, everything else on the others. Both sides of a figure take turns within one run.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llmagentos.benchmark import serve_beside, serve_overload, serve_switch
from llmagentos.benchmark.serve_bare import Asked
from llmagentos.benchmark.serve_client import CHAT, ceiling
from llmagentos.benchmark.serve_figures import Figure, Found, alternate, differences, quantile, ratios, table
from llmagentos.benchmark.serve_place import Place, place, rate, unrecorded
from llmagentos.benchmark.serve_questions import described, draw, unlike
from llmagentos.config import Config

PARTS = ("bare", "ttft", "record", "switch", "overload", "beside")
_CEILING_SECONDS = 2.0
_WARM = 200
"""Answers before anything is timed: the log of a fresh record grows with the first of them, which costs each more."""
_FIRST_TOKENS = 4
"""Tokens of an answer of which only the first counts."""
_REST_SECONDS = 0.02
"""Between an answer's end and the next question where first tokens are timed: nobody asks in the millisecond in which they
were answered, and an engine that has no HTTP in between would be asked with its caches hot."""


def run(
    config: Config,
    *,
    parts: tuple[str, ...] = PARTS,
    rounds: int = 5,
    requests: int = 96,
    clients: tuple[int, ...] = (1, 8, 32),
    tokens: float = 32,
    sigma: float = 0.5,
    longest: int = 128,
    switches: int = 200,
    pace: float = 3.0,
    repeated: bool = False,
    seconds: float = 10.0,
    beside: float = 2.0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The figures of `parts`, each with its target and whether it is met, over `rounds` rounds behind one to warm up.

    `requests` are asked in a round by the most `clients`; answers have a median of `tokens` tokens (log-normal, `sigma`),
    at most `longest`. `switches` in all, one every `pace` seconds; more questions are then asked than a prefix cache holds,
    unless the `requests` are to be `repeated`, which it answers until a switch leaves it behind. `seconds` is the length
    of an overload, of the places that `serve.max_ongoing` and `serve.max_queued` give. `beside` requests a second are
    asked while a cycle runs.
    """
    with place(config) as there:
        asked = draw(there.bare, requests, tokens, sigma, longest)
        measures: dict[str, Callable[[], Any]] = {
            "bare": lambda: against_bare(there, asked, rounds, clients),
            "ttft": lambda: first_token(there, asked, rounds),
            "record": lambda: recording(there, asked, rounds, max(clients)),
            "switch": lambda: serve_switch.measure(
                there, asked if repeated else unlike(tokens, sigma, longest), rounds, switches, pace
            ),
            "overload": lambda: serve_overload.measure(there, asked, rounds, seconds),
            "beside": lambda: serve_beside.measure(there, asked, rounds, beside, 3 * seconds),
        }
        found = {}
        for part in parts:
            say(f"serve: {part}")
            found[part] = measures[part]()
        facts = {
            "questions": described(asked, tokens, sigma),
            "cores": {**vars(there.cores), "apart": there.cores.apart, "replica": "others" if config.engine.apart else "engine"},
            "settings": {**_settings(config), "rounds": rounds},
        }
    figures = [figure.told() for part in found.values() for figure in part.figures]
    return {"table": table(figures), "figures": figures, **facts, **{name: part.facts for name, part in found.items()}}


def _settings(config: Config) -> dict[str, int]:
    serve = config.serve
    return {"max_ongoing": serve.max_ongoing, "max_queued": serve.max_queued, "threads": config.engine.threads}


def against_bare(there: Place, asked: Sequence[Asked], rounds: int, clients: Sequence[int]) -> Found:
    """Tokens a second through Serve over those of the bare engine, and the client's own limit."""
    found = Found()
    for _ in range(math.ceil(_WARM / len(asked))):
        there.send(asked, max(clients))
    for count in clients:
        _compare(found, there, asked[: _share(len(asked), count, max(clients))], rounds, count, stream=False)
    _compare(found, there, asked, rounds, max(clients), stream=True)
    load = there.load(asked[:1], clients=max(clients), seconds=_CEILING_SECONDS)
    found.facts["client_requests_per_second"] = round(ceiling(there.client, there.cores, load))
    return found


def _share(requests: int, count: int, most: int) -> int:
    """Requests of a round: fewer clients take longer over each."""
    return min(requests, max(requests // 8, requests * count // most))


def _compare(found: Found, there: Place, asked: Sequence[Asked], rounds: int, count: int, *, stream: bool) -> None:
    sides = {
        "bare": partial(there.bare.answer, asked, count, stream=stream),
        "serve": partial(there.send, asked, count, stream=stream),
    }
    rates = {name: [rate(answers) for answers in each] for name, each in alternate(rounds, sides).items()}
    name = f"{count} client{'s' if count > 1 else ''}{', streaming' if stream else ''}"
    over = ratios(rates["serve"], rates["bare"])
    found.figures.append(Figure(f"over bare, {name}", over, least=0.9 if stream else 0.95))
    found.facts[name] = {f"{side}_tokens_per_second": round(Figure("", values).median) for side, values in rates.items()}


def first_token(there: Place, asked: Sequence[Asked], rounds: int) -> Found:
    """Milliseconds that Serve adds to the time to the first token of a stream, one client that rests between two."""
    short = [Asked(one.question, min(one.max_tokens, _FIRST_TOKENS)) for one in asked] * 2  # so that p99 is not the slowest
    sides = {
        "bare": lambda: [said.first for said in there.bare.answer(short, 1, stream=True, rest=_REST_SECONDS)],
        "serve": lambda: [heard.first for heard in there.send(short, 1, stream=True, rest=_REST_SECONDS)],
    }
    firsts = alternate(rounds, sides)
    found = Found()
    for share, most in ((0.5, 3.0), (0.99, 15.0)):
        values = {side: [quantile(each, share) for each in firsts[side]] for side in sides}
        added = differences(values["serve"], values["bare"], 1000)
        found.figures.append(Figure(f"first token, added p{share * 100:g}", added, "ms", most=most))
        found.facts[f"p{share * 100:g}_ms"] = {s: round(Figure("", v).median * 1000, 2) for s, v in values.items()}
    return found


def recording(there: Place, asked: Sequence[Asked], rounds: int, count: int) -> Found:
    """What durable recording adds to an answer's time, one client, and takes from the throughput of `count`."""
    with unrecorded(there) as prefix:
        paths = {"without": prefix + CHAT, "with": CHAT}
        alone = {name: partial(_seconds, there, asked[: max(1, len(asked) // 4)], path) for name, path in paths.items()}
        times = alternate(rounds, alone)
        together = {name: partial(there.send, asked, count, path=path) for name, path in paths.items()}
        rates = {name: [rate(heard) for heard in each] for name, each in alternate(rounds, together).items()}
    added = [quantile(differences(b, a, 1000), 0.5) for a, b in zip(times["without"], times["with"], strict=True)]
    figures = [
        Figure("recording, added p50", added, "ms", most=1.5),
        Figure(f"over unrecorded, {count} clients", ratios(rates["with"], rates["without"]), least=0.97),
    ]
    return Found(figures, {f"{side}_tokens_per_second": round(Figure("", v).median) for side, v in rates.items()})


def _seconds(there: Place, asked: Sequence[Asked], path: str) -> list[float]:
    return [heard.seconds for heard in there.send(asked, 1, path=path)]
