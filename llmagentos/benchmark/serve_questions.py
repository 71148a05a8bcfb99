"""What is asked: questions whose answers have lengths drawn from a log-normal distribution, the same on every side.

The API has no "go on behind the end", so a length is only drawn for a question whose own answer is longer, and
`max_tokens` cuts it there. Everything is greedy: each side says the same tokens.
"""

import random
from collections.abc import Sequence
from typing import Any

from llmagentos.benchmark.serve_bare import Asked, Bare
from llmagentos.scenarios.customer_service.customers import day_two

_CANDIDATES = 400
_UNLIKE = 4000
"""Questions that no engine's prefix cache holds at once: when one comes round again, it is as good as new."""
_SHORTEST = 4
_AT_ONCE = 32


def draw(bare: Bare, count: int, median: float, sigma: float, longest: int) -> list[Asked]:
    """`count` requests, always the same ones. Raises ValueError where the version never speaks `_SHORTEST` tokens."""
    rng = random.Random(0)
    prompts = _prompts(rng, _CANDIDATES)
    said = bare.answer([Asked(prompt, longest) for prompt in prompts], _AT_ONCE, stream=False)
    return fit([(prompt, len(one.ids)) for prompt, one in zip(prompts, said, strict=True)], count, median, sigma, rng)


def fit(spoken: Sequence[tuple[str, int]], count: int, median: float, sigma: float, rng: random.Random) -> list[Asked]:
    """Lengths of a log-normal distribution, each for a question whose answer is that long; the longest answers bound it."""
    most = max(length for _, length in spoken) - 1
    if most < _SHORTEST:
        raise ValueError(f"no answer of this version has more than {most} tokens")
    found = []
    for _ in range(count):
        length = _length(median, sigma, most, rng)
        found.append(Asked(rng.choice([prompt for prompt, own in spoken if own > length]), length))
    return found


def unlike(median: float, sigma: float, longest: int) -> list[Asked]:
    """`_UNLIKE` different questions, always the same ones; an answer that would be shorter than its length ends by itself."""
    rng = random.Random(1)
    return [Asked(prompt, _length(median, sigma, longest, rng)) for prompt in _prompts(rng, _UNLIKE)]


def described(asked: Sequence[Asked], median: float, sigma: float) -> dict[str, Any]:
    """What was drawn and what came of it."""
    lengths = sorted(one.max_tokens for one in asked)
    return {
        "requests": len(asked),
        "answer_tokens_drawn": f"log-normal, median {median:g}, sigma {sigma:g}",
        "answer_tokens_mean": round(sum(lengths) / len(lengths), 1),
        "answer_tokens_shortest": lengths[0],
        "answer_tokens_longest": lengths[-1],
    }


def _length(median: float, sigma: float, most: int, rng: random.Random) -> int:
    return min(most, max(_SHORTEST, round(median * rng.lognormvariate(0.0, sigma))))


def _prompts(rng: random.Random, count: int) -> list[str]:
    questions = [visit.question.prompt for visit in day_two(0).visits()]
    return [" ".join(rng.sample(questions, 3)) for _ in range(count)]
