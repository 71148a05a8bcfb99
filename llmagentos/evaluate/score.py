"""Ask one model the items of suites: right or wrong, and what it said.

For a fixed right answer, "every answer token is the teacher-forced argmax" is the same as greedy decoding giving that
answer: one batched forward pass settles the right ones, and only the rest is generated. Results are cached by the
version's weights and the item, so a version is asked a question once; the forced pass and the generated answers are
cached apart, since a generated answer may be right in other words (a call with its arguments in another order).

Of a long free text no model has every word, so it is graded too: by the geometric mean of the probabilities that the forced
pass gives to the right answer's tokens.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from llmagentos.core.batches import longest_first
from llmagentos.core.degenerate import is_degenerate
from llmagentos.core.errors import InputError
from llmagentos.core.evaluation import EvalItem, ItemResult, Suite
from llmagentos.core.messages import answer_text, same_answer
from llmagentos.engines.batch import generate_greedy
from llmagentos.models.chat import Rendered, Renderer
from llmagentos.storage.files import add_lines, read_lines
from llmagentos.training.batches import collate
from llmagentos.training.head import logits_of
from llmagentos.training.rows import MicroBatch

Answer = tuple[bool, str, bool]
"""Right, what was said, degenerate."""
Forced = tuple[bool, float | None]
"""Right, and the grade of a long free text."""
_FREE = 160
"""Characters from which an answer is free text."""


class ScoreCache:
    """Outcomes of one version: forced.jsonl of (item hash, right, grade), answers.jsonl of (hash, right, answer, degenerate)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        forced = read_lines(folder / "forced.jsonl")
        self.forced: dict[str, Forced] = {key: (right, grade[0] if grade else None) for key, right, *grade in forced}
        self.answers: dict[str, Answer] = {key: (right, *said) for key, right, *said in read_lines(folder / "answers.jsonl")}

    def keep_forced(self, found: dict[str, Forced]) -> None:
        """Remember outcomes of the forced pass."""
        self.forced |= found
        add_lines(self._folder / "forced.jsonl", ([key, *values] for key, values in found.items()))

    def keep_answers(self, found: dict[str, Answer]) -> None:
        """Remember what was said."""
        self.answers |= found
        add_lines(self._folder / "answers.jsonl", ([key, *values] for key, values in found.items()))


def score(
    load: Callable[[], tuple[Any, Renderer]],
    suites: Sequence[Suite],
    *,
    cache: ScoreCache,
    batch_tokens: int,
    max_new_tokens: int,
    generate: bool = True,
) -> list[ItemResult]:
    """Results for every item of every suite, in order. `load` is called only where the cache does not know all.

    With `generate` false a wrong answer's text is left empty, which saves most of the time; only results that were asked
    for in the same way compare.
    """
    items = {i.content: i for s in suites for i in s.items}
    known = cache.answers if generate else {}
    unknown = {k: i for k, i in items.items() if k not in known}
    loaded: list[tuple[Any, Renderer]] = []

    def model() -> tuple[Any, Renderer]:
        loaded[:] = loaded or [load()]
        return loaded[0]

    ungraded = {k for k, i in items.items() if _is_free(i) and cache.forced.get(k, (False, None))[1] is None}
    unforced = {k: i for k, i in items.items() if k in ungraded or (k in unknown and k not in cache.forced)}
    if unforced:
        cache.keep_forced(dict(zip(unforced, _forced(*model(), list(unforced.values()), batch_tokens), strict=True)))
    wrong = {k: i for k, i in unknown.items() if not cache.forced[k][0]}
    found = {k: (True, answer_text(i.messages[-1]), False) for k, i in unknown.items() if k not in wrong}
    if wrong and generate:
        said = _generated(*model(), list(wrong.values()), batch_tokens, max_new_tokens)
        found |= dict(zip(wrong, said, strict=True))
    if generate:
        cache.keep_answers(found)
    outcomes = {**dict.fromkeys(wrong, (False, "", False)), **known, **found}
    grades = {k: cache.forced[k][1] for k in items if k in cache.forced}
    return [_result(s, i, outcomes[i.content], grades.get(i.content)) for s in suites for i in s.items]


def _result(suite: Suite, item: EvalItem, outcome: Answer, grade: float | None) -> ItemResult:
    right, answer, degenerate = outcome
    return ItemResult(item_id=item.id, suite=suite.name, right=right, answer=answer, degenerate=degenerate, score=grade)


def _is_free(item: EvalItem) -> bool:
    last = item.messages[-1]
    return not last.get("tool_calls") and len(answer_text(last)) >= _FREE


@torch.inference_mode()
def _forced(model: Any, renderer: Renderer, items: Sequence[EvalItem], batch_tokens: int) -> list[Forced]:
    """For each item: is every token of its last answer the model's first choice? And the grade of a free text."""
    rows = {k: row for k, item in enumerate(items) if (row := _asked(renderer, item))}
    free = {k for k, item in enumerate(items) if _is_free(item)}
    right, grades = [k in rows for k in range(len(items))], [0.0 if k in free else None for k in range(len(items))]
    logits_of_batch = logits_of(model)
    for chunk in longest_first(rows, lambda k: len(rows[k].ids), batch_tokens):
        ids, mask = ([np.asarray(getattr(rows[k], name)) for k in chunk] for name in ("ids", "mask"))
        batch = collate(MicroBatch(0, chunk, ids, mask, ["old"] * len(chunk), 1), renderer.pad_id, model.device)
        logits = logits_of_batch(batch)
        for row in batch.row_of[logits.argmax(dim=-1) != batch.targets].unique().tolist():
            right[chunk[row]] = False
        for row in (row for row, k in enumerate(chunk) if k in free):
            its = batch.row_of == row
            grades[chunk[row]] = math.exp(-float(F.cross_entropy(logits[its], batch.targets[its])))
    return list(zip(right, grades, strict=True))


def _generated(
    model: Any, renderer: Renderer, items: Sequence[EvalItem], batch_tokens: int, max_new_tokens: int
) -> list[tuple[bool, str, bool]]:
    prompts = {k: renderer.prompt(i.messages[:-1], i.tools) for k, i in enumerate(items) if _asked(renderer, i)}
    answers = generate_greedy(
        model,
        list(prompts.values()),
        stop_ids=renderer.stop_ids,
        pad_id=renderer.pad_id,
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
    )
    found = [(False, "", False)] * len(items)
    for k, ids in zip(prompts, answers, strict=True):
        item = items[k]
        ended = bool(ids) and ids[-1] in renderer.stop_ids
        reply = renderer.answer(ids)
        text = answer_text(reply)
        # Where the right answer is longer than what may be said here, to be cut off tells nothing.
        endless = not ended and _length(renderer, item) <= max_new_tokens
        found[k] = (ended and same_answer(reply, item.messages[-1]), text, endless or is_degenerate(text))
    return found


def _length(renderer: Renderer, item: EvalItem) -> int:
    """Tokens of the right answer, its end included."""
    return sum(rendered_item(renderer, item).mask)


def rendered_item(renderer: Renderer, item: EvalItem) -> Rendered:
    """An item with its right answer as ids, of which the mask is. Raises InputError where the chat template refuses it."""
    return renderer.example(_only_last(item.messages), item.tools, keep=True)


def _asked(renderer: Renderer, item: EvalItem) -> Rendered | None:
    """None for what this version's chat template refuses, though another one's let it in: it counts as wrong."""
    try:
        return rendered_item(renderer, item)
    except InputError:
        return None


def _only_last(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**m, "weight": 0} if m["role"] == "assistant" else m for m in messages[:-1]] + [{**messages[-1], "weight": 1}]
