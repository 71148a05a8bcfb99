"""The last step of the chain: a labelled row as an Example that the one renderer can render."""

from functools import lru_cache

from llmagentos.collect.validate import Row, drop
from llmagentos.core.errors import InputError
from llmagentos.core.examples import to_example
from llmagentos.models.chat import Renderer

DEFAULT = "default"


@lru_cache(maxsize=2)
def renderer_of(folder: str) -> Renderer:
    """One renderer a process and folder: reading a tokenizer costs more than rendering hundreds of rows."""
    return Renderer(folder)


def format_row(row: Row, folder: str, max_length: int) -> Row:
    """`{"example": …}`, or dropped where nothing is supervised or the row is longer than the model takes."""
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
        )
        if not example.answer:
            return drop(row, "empty_answer")
        if len(renderer_of(folder).example(example.messages, example.tools).ids) > max_length:
            return drop(row, "too_long")
    except InputError:
        return drop(row, "nothing_supervised")
    done = {"id": example.id, "seq": example.seq, "redacted": row.get("redacted", {})}
    return {**done, "example": example.model_dump(mode="json")}
