"""The last step of the chain: a labelled row as an Example that the one renderer can render."""

from functools import lru_cache

from llmagentos.collect.validate import Row, drop
from llmagentos.core.degenerate import is_degenerate
from llmagentos.core.errors import InputError
from llmagentos.core.examples import judged_messages, to_example
from llmagentos.core.messages import Message, text_of
from llmagentos.core.records import Example
from llmagentos.models.chat import Renderer

DEFAULT = "default"


@lru_cache(maxsize=2)
def renderer_of(folder: str) -> Renderer:
    """One renderer a process and folder: reading a tokenizer costs more than rendering hundreds of rows."""
    return Renderer(folder)


def format_row(row: Row, folder: str, max_length: int) -> Row:
    """`{"example": …}`, or dropped where nothing is supervised, the answer says nothing that is worth learning, the model's chat
    template refuses it, or the row is longer than the model takes."""
    try:
        example = to_example(
            row["messages"],
            id=row["id"],
            seq=row["seq"],
            tier=row["tier"],
            tools=row["tools"],
            scenario=row["scenario"] or DEFAULT,
            skill=row["skill"] or DEFAULT,
            key=row["key"],
            user_id=row["user_id"],
            session_id=row["session_id"],
            votes=row["votes"],
            **row["judged"],
        )
    except InputError:
        return drop(row, "nothing_supervised")
    try:
        if not example.answer:
            return drop(row, "empty_answer")
        if _length(example, renderer_of(folder)) > max_length:
            return drop(row, "too_long")
        if example.label == "target" and is_degenerate(text_of(example.messages[-1]) or example.answer):
            return drop(row, "degenerate_answer")
    except InputError as error:
        return drop(row, "invalid", error.message)
    if example.rejected and not _fits(example, renderer_of(folder), max_length):
        example = example.model_copy(update={"rejected": None})
    done = {"id": example.id, "seq": example.seq, "redacted": row.get("redacted", {})}
    return {**done, "example": example.model_dump(mode="json")}


def _fits(example: Example, renderer: Renderer, max_length: int) -> bool:
    """Whether the rejected answer can be trained on."""
    try:
        return _length(example, renderer, example.rejected) <= max_length
    except InputError:
        return False


def _length(example: Example, renderer: Renderer, answer: Message | None = None) -> int:
    """Tokens of the example, or of the same question with another answer."""
    judged = answer is not None or example.label == "disliked"
    messages = judged_messages(example.messages, answer) if judged else example.messages
    return len(renderer.example(messages, example.tools).ids)
