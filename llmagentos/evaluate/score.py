"""Ask one model the items of suites: right or wrong, and what it said.

For a fixed right answer, "every answer token is the teacher-forced argmax" is the same as greedy decoding giving that
answer: one batched forward pass settles the right ones, and only the rest is generated. Results are cached by the
version's weights and the item, so a version is asked a question once.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from llmagentos.core.evaluation import EvalItem, ItemResult, Suite
from llmagentos.core.hashing import digest
from llmagentos.core.messages import answer_text, same_answer
from llmagentos.engines.batch import generate_greedy
from llmagentos.models.chat import Renderer

_REPEATS = 8
"""A last line, word or character group said this often in a row is a loop."""


class ScoreCache:
    """Answers of one version: an append-only file of (item hash, right, answer, degenerate)."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "answers.jsonl"
        self._known: dict[str, tuple[bool, str, bool]] = {}
        if self._path.exists():
            for line in self._path.read_text("utf-8").split("\n"):
                if line:
                    key, right, answer, degenerate = json.loads(line)
                    self._known[key] = (right, answer, degenerate)

    def get(self, key: str) -> tuple[bool, str, bool] | None:
        return self._known.get(key)

    def put(self, found: dict[str, tuple[bool, str, bool]]) -> None:
        self._known |= found
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps([key, *values], ensure_ascii=False) + "\n" for key, values in found.items())


def item_key(item: EvalItem) -> str:
    """Hash of the question and its right answer."""
    return digest([item.messages, item.tools])


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

    With `generate` false a wrong answer's text is left empty, which saves most of the time.
    """
    missing = {item_key(i): i for s in suites for i in s.items if _unknown(cache.get(item_key(i)), generate)}
    if missing:
        model, renderer = load()
        items = list(missing.values())
        right = _forced(model, renderer, items, batch_tokens)
        found = {k: (True, answer_text(i.messages[-1]), False) for (k, i), ok in zip(missing.items(), right, strict=True) if ok}
        wrong = [(k, i) for (k, i), ok in zip(missing.items(), right, strict=True) if not ok]
        if wrong and generate:
            said = _generated(model, renderer, [i for _, i in wrong], batch_tokens, max_new_tokens)
            found |= {k: values for (k, _), values in zip(wrong, said, strict=True)}
        else:
            found |= {k: (False, "", False) for k, _ in wrong}
        cache.put(found)
    results = []
    for suite in suites:
        for item in suite.items:
            known = cache.get(item_key(item))
            assert known is not None
            results.append(ItemResult(item_id=item.id, suite=suite.name, right=known[0], answer=known[1], degenerate=known[2]))
    return results


def _unknown(known: tuple[bool, str, bool] | None, generate: bool) -> bool:
    # A wrong answer without text was scored in a hurry: whoever needs the text asks again.
    return known is None or (generate and not known[0] and not known[1] and not known[2])


@torch.inference_mode()
def _forced(model: Any, renderer: Renderer, items: Sequence[EvalItem], batch_tokens: int) -> list[bool]:
    """For each item: is every token of its last answer the model's first choice?"""
    rows = [renderer.example(_only_last(i.messages), i.tools) for i in items]
    right = [False] * len(items)
    order = sorted(range(len(rows)), key=lambda k: len(rows[k].ids))
    while order:
        size = max(1, batch_tokens // len(rows[order[min(len(order), 64) - 1]].ids))
        chunk, order = order[:size], order[size:]
        width = max(len(rows[k].ids) for k in chunk)
        ids = torch.tensor([rows[k].ids + [renderer.pad_id] * (width - len(rows[k].ids)) for k in chunk])
        mask = torch.tensor([rows[k].mask + [0] * (width - len(rows[k].mask)) for k in chunk], dtype=torch.bool)
        ids, wanted = ids.to(model.device), mask[:, 1:].to(model.device)
        columns = torch.nonzero(wanted.any(dim=0)).flatten()
        keep = torch.arange(int(columns[0]), int(columns[-1]) + 1, device=ids.device)
        best = model(input_ids=ids, logits_to_keep=keep, use_cache=False).logits.argmax(dim=-1)
        ok = ((best == ids[:, 1:][:, keep]) | ~wanted[:, keep]).all(dim=1).tolist()
        for k, good in zip(chunk, ok, strict=True):
            right[k] = good
    return right


def _generated(
    model: Any, renderer: Renderer, items: Sequence[EvalItem], batch_tokens: int, max_new_tokens: int
) -> list[tuple[bool, str, bool]]:
    prompts = [renderer.prompt(i.messages[:-1], i.tools) for i in items]
    answers = generate_greedy(
        model,
        prompts,
        stop_ids=renderer.stop_ids,
        pad_id=renderer.pad_id,
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
    )
    found = []
    for item, ids in zip(items, answers, strict=True):
        ended = bool(ids) and ids[-1] in renderer.stop_ids
        reply = renderer.answer(ids)
        text = answer_text(reply)
        found.append((ended and same_answer(reply, item.messages[-1]), text, not ended or is_degenerate(text)))
    return found


def is_degenerate(text: str) -> bool:
    """Empty, or ending in one piece of text repeated again and again."""
    if not text.strip():
        return True
    return any(
        len(text) >= size * _REPEATS and text.endswith(text[-size:] * _REPEATS) for size in range(2, 1 + len(text) // _REPEATS)
    )


def _only_last(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**m, "weight": 0} if m["role"] == "assistant" else m for m in messages[:-1]] + [{**messages[-1], "weight": 1}]
