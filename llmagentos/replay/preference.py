"""Judged answers as rows of the mix: KTO's units with their mismatched rows, or DPO's pairs. Pure and deterministic.

KTO reads every judgement, a correction as one answer wanted and one not. Its estimate of the divergence needs prompts
with answers to other prompts: each judged row gets one, made here once, so that it is planned and annotated like any
other. Both classes weigh the same in sum, within limits: a single thumb must not shout down a hundred.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from llmagentos.core.examples import judged_messages
from llmagentos.core.hashing import digest, fraction
from llmagentos.core.messages import Message, answer_text
from llmagentos.core.records import Example

Kind = Literal["kto", "dpo"]

MOST = 4.0
"""Largest factor by which a rare class is lifted."""


def preference_rows(kind: Kind, examples: Sequence[Example], judged: Sequence[Example]) -> list[dict[str, Any]]:
    """Rows with `messages`, `label`, `weight` and `pair`. `judged` are liked and disliked rows of a snapshot, `examples`
    its targets, of which those count that replaced a rejected answer."""
    corrected = [e for e in examples if e.rejected is not None]
    if kind == "dpo":
        return [row for e in corrected for row in _pair(e)]
    made = [_row(e, e.messages[-1], 1.0 if e.label == "liked" else -1.0, e.weight) for e in judged]
    made += [row for e in corrected for row in _pair(e)]
    return _units(_balanced(sorted(made, key=lambda row: (fraction(row["id"], salt="preference"), row["id"]))))


def _pair(example: Example) -> list[dict[str, Any]]:
    assert example.rejected is not None
    chosen = _row(example, example.messages[-1], 1.0, example.weight)
    rejected = _row(example, example.rejected, -1.0, example.weight)
    return [{**row, "pair": example.id} for row in (chosen, {**rejected, "id": f"{example.id}/rejected"})]


def _row(example: Example, answer: Message, label: float, weight: float) -> dict[str, Any]:
    return {
        "id": example.id,
        "skill": example.skill,
        "messages": judged_messages(example.messages, answer),
        "tools": example.tools,
        "label": label,
        "weight": weight,
        "pair": None,
    }


def _balanced(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """λ_D and λ_U [Ethayarajh+ 2024, eq. 9]: each class's weights sum to half of all, the factor between 1/4 and 4."""
    total = {sign: sum(r["weight"] for r in rows if r["label"] == sign) for sign in (1.0, -1.0)}
    if not all(total.values()):
        return list(rows)
    half = sum(total.values()) / 2
    factor = {sign: min(max(half / mass, 1 / MOST), MOST) for sign, mass in total.items()}
    return [{**row, "weight": row["weight"] * factor[row["label"]]} for row in rows]


def _units(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row beside one with its prompt and the answer of the next row that asks something else."""
    made: list[dict[str, Any]] = []
    for row, other in zip(rows, _others(rows), strict=True):
        name = f"kto/{row['id']}"
        made.append({**row, "pair": name})
        if other is not None:
            messages = judged_messages(row["messages"], other["messages"][-1])
            made.append({**row, "id": f"{row['id']}/mismatched", "messages": messages, "label": 0.0, "pair": name})
    return made


def _others(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any] | None]:
    """For each row the next one, going round, with another prompt and another answer; else with another prompt.

    Rows that say the same one behind the other are passed over at once: thousands may hold one refusal.
    """
    count = len(rows)
    prompts = [digest(row["messages"][:-1]) for row in rows]
    answers = [answer_text(row["messages"][-1]) for row in rows]
    past_prompt, past_answer = _past(prompts), _past(answers)
    for at in range(count):
        other = at + 1
        while other < at + count:
            if answers[other % count] == answers[at]:
                other = past_answer[other]
            elif prompts[other % count] == prompts[at]:
                other = past_prompt[other]
            else:
                break
        else:
            other = past_prompt[at]
        yield rows[other % count] if other < at + count else None


def _past(values: Sequence[str]) -> list[int]:
    """For each place of two rounds the next one that holds something else."""
    count = len(values)
    past = list(range(1, 2 * count + 1))
    for at in reversed(range(2 * count - 1)):
        if values[at % count] == values[(at + 1) % count]:
            past[at] = past[at + 1]
    return past
