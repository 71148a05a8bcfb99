"""Lengths are drawn for questions whose answers are as long."""

import random
import statistics

import pytest

from llmagentos.benchmark.serve_bare import Asked
from llmagentos.benchmark.serve_questions import described, fit, unlike

SPOKEN = [(f"question {length}", length) for length in range(2, 200)]


def test_no_answer_ends_before_its_length():
    asked = fit(SPOKEN, 300, 32, 0.5, random.Random(0))
    own = dict(SPOKEN)
    assert all(own[one.question] > one.max_tokens >= 4 for one in asked)
    assert 26 <= statistics.median(one.max_tokens for one in asked) <= 38
    assert asked == fit(SPOKEN, 300, 32, 0.5, random.Random(0))


def test_the_longest_answer_bounds_the_lengths():
    assert max(one.max_tokens for one in fit(SPOKEN[:20], 100, 32, 1.0, random.Random(0))) == 20
    with pytest.raises(ValueError, match="no answer"):
        fit(SPOKEN[:2], 1, 32, 0.5, random.Random(0))


def test_questions_without_end_are_all_different_and_always_the_same():
    asked = unlike(32, 0.5, 128)
    assert len({one.question for one in asked}) == len(asked) >= 2000
    assert 28 <= statistics.median(one.max_tokens for one in asked) <= 36
    assert asked == unlike(32, 0.5, 128)


def test_what_was_drawn_is_told():
    told = described([Asked("a", 4), Asked("b", 8)], 6, 0.5)
    assert (told["requests"], told["answer_tokens_mean"], told["answer_tokens_longest"]) == (2, 6, 8)
    assert told["answer_tokens_drawn"] == "log-normal, median 6, sigma 0.5"
