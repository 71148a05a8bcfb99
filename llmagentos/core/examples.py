"""From a conversation to an Example: which turns are supervised, and where the example ends."""

from collections.abc import Collection
from typing import Any

from llmagentos.core.errors import InputError
from llmagentos.core.hashing import digest
from llmagentos.core.messages import Message, Row, answer_text, normalised_prompt, parse_row
from llmagentos.core.records import Example, Tier


def dump_messages(row: Row) -> list[Message]:
    """The messages of a validated row as plain JSON, unset fields left out."""
    return [m.model_dump(mode="json", exclude_none=True) for m in row.messages]


def row_id(row: Row) -> str:
    """The row's own id, else the hash of all it says, feedback and metadata included."""
    return row.id or "row-" + digest(row.model_dump(mode="json", exclude_none=True), length=32)


def to_example(messages: list[Message], *, id: str, seq: int, tier: Tier, **fields: Any) -> Example:
    """An Example that ends with its last supervised answer; what follows it cannot be learned from.

    Assistant messages without `weight` are supervised; in a disliked example none is, and it ends with its last answer.
    Raises InputError where nothing is left.
    """
    disliked = fields.get("label") == "disliked"
    weighted = [
        {**m, "weight": 0 if disliked else m.get("weight", 1)} if m["role"] == "assistant" else _plain(m) for m in messages
    ]
    targets = [i for i, m in enumerate(weighted) if m.get("weight") == (0 if disliked else 1)]
    if not targets:
        raise InputError("no assistant message is supervised (all have weight 0)", field="messages")
    weighted = weighted[: targets[-1] + 1]
    return Example(
        id=id,
        seq=seq,
        tier=tier,
        messages=weighted,
        prompt=normalised_prompt(weighted),
        answer=answer_text(weighted[-1]),
        **{name: value for name, value in fields.items() if value is not None},
    )


def example_of_row(data: dict[str, Any], *, seq: int = 0) -> Example:
    """A row of CONTRACTS' format without feedback as a demonstration. Raises InputError."""
    row = parse_row(data)
    meta = row.metadata
    return to_example(
        dump_messages(row),
        id=row_id(row),
        seq=seq,
        tier="import",
        tools=row.tools,
        scenario=meta.scenario,
        skill=meta.skill,
        key=meta.key,
        user_id=meta.user_id,
        session_id=meta.session_id,
    )


def judged_messages(messages: list[Message], answer: Message | None = None) -> list[Message]:
    """A conversation of which only the last answer (or `answer` in its place) counts: weight 1 there, 0 before."""
    earlier = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in messages[:-1]]
    return [*earlier, {**(answer or messages[-1]), "weight": 1}]


def supervised_prompts(example: Example) -> list[str]:
    """The normalised prompt of each supervised turn: a held-out prompt may hide inside a longer conversation.

    Of a disliked example it is the one whose answer was judged.
    """
    if example.label == "disliked":
        return [example.prompt]
    messages = example.messages
    return [normalised_prompt(messages[: i + 1]) for i, m in enumerate(messages) if m.get("weight") == 1]


def silenced(messages: list[Message], held: Collection[str]) -> list[Message]:
    """The messages with weight 0 on each earlier answer to a prompt that is `held` out: it may stand before the last one."""
    return [
        {**m, "weight": 0} if m.get("weight") == 1 and i < len(messages) and normalised_prompt(messages[:i]) in held else m
        for i, m in enumerate(messages, start=1)
    ]


def _plain(message: Message) -> Message:
    return {name: value for name, value in message.items() if name != "weight"}
