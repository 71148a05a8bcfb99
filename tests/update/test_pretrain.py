"""What the seed is asked and what it may practise: no answer is held out as a whole."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

import llmagentos
from llmagentos.release.bootstrap import GENERAL
from llmagentos.scenarios.question import Question
from llmagentos.update.pretrain import _spared

SEED = Path(llmagentos.__file__).parent / "models" / "seed"


def asked(prompt: str, answer: str) -> Question:
    return Question(prompt=prompt, answer=answer, skill="talk")


def test_a_suite_takes_at_most_a_third_of_an_answers_wordings():
    pinned = [asked(f"hello {k}", "Hi") for k in range(9)] + [asked("bye", "Bye"), asked("see you", "Bye")]
    held = [asked(f"hello {k}", "Hi") for k in range(9)] + [asked("bye", "Bye"), asked("see you", "Bye")]
    assert Counter(q.answer for q in _spared(held, pinned)) == {"Hi": 3, "Bye": 1}


def test_what_is_not_pinned_is_held_out_whole():
    held = [asked(f"{k}+1", "7") for k in range(5)]
    assert _spared(held, [asked("3+4", "7")]) == held


def test_of_every_answer_that_the_seed_repeats_most_wordings_are_left_for_practice():
    suite = (SEED / "suites" / "general_held_out.jsonl").read_text("utf-8").splitlines()
    held = {json.loads(line)["messages"][0]["content"] for line in suite}
    general = pq.read_table(SEED / GENERAL).to_pylist()
    messages = [json.loads(row["messages"]) for row in general]
    pinned = {(m[0]["content"], m[-1].get("content")) for m in messages}
    wordings = Counter(answer for _, answer in pinned)
    barred = Counter(answer for prompt, answer in pinned if prompt in held)
    assert barred
    assert all(taken <= max(1, wordings[answer] // 3) for answer, taken in barred.items())
