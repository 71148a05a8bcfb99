"""A stranger's JSONL file onto the same road as the traffic: rows into the spool, then the log.

Read line by line, so that neither a large file nor a monstrous line costs memory. Good rows go in, bad ones to
quarantine with their line; `strict` reads the whole file first, remembers its ids, and takes all or nothing.
"""

import codecs
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from llmagentos.collect import quarantine
from llmagentos.collect.exporting import recorded_feedback
from llmagentos.config import Config
from llmagentos.core.errors import InputError, NotFoundError
from llmagentos.core.examples import dump_messages, row_id, to_example
from llmagentos.core.hashing import digest
from llmagentos.core.messages import REVIEWED, Row, read_row
from llmagentos.core.records import OTHERS, TENANT, Feedback, Interaction, Tier, own_id
from llmagentos.core.superseding import Superseded, is_superseded
from llmagentos.storage import snapshots
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.interactions import find_all
from llmagentos.storage.layout import Home
from llmagentos.storage.spool import Spool, exclusive

MAX_LINE_BYTES = 4_000_000
MAX_ERRORS = 1_000
"""Errors listed in the result; `rejected` counts all of them."""
BATCH_ROWS = 1_000
OUTDATED = "What some duplicates say was replaced since and stays so; to say it anew, give them an `id` or a newer `timestamp`."

_CHUNK = 1 << 20
_SAME_SECONDS = 0.001
"""Times so near to one another are the same one, written and read."""


@dataclass(frozen=True)
class Line:
    """One line of a file: a row, or what is wrong with it and how it began; both for a row whose id is another's."""

    number: int
    row: Row | None = None
    error: InputError | None = None
    raw: str = ""


@dataclass
class _Outcome:
    imported: int = 0
    duplicates: int = 0
    rejected: int = 0
    outdated: int = 0
    """Duplicates whose answer was superseded since."""
    errors: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        named = {"imported": self.imported, "duplicates": self.duplicates, "rejected": self.rejected}
        omitted = self.rejected - len(self.errors)
        outdated = {"outdated_duplicates": self.outdated, "hint": OUTDATED} if self.outdated else {}
        return {**named, "errors": self.errors} | ({"errors_omitted": omitted} if omitted else {}) | outdated


def import_file(config: Config, path: str | Path, strict: bool = False, *, tenant: str | None = None) -> dict[str, Any]:
    """Import a JSONL file: `{imported, duplicates, rejected, errors: [{line, field, message}]}`.

    A row that is known already is a duplicate, also as `export` wrote it; new feedback of a known row (same `id`, same
    conversation) goes in. Where newer rows took over from duplicates, `outdated_duplicates` counts these and `hint` says what
    to do. Without a `tenant` rows are the default one's, but those that `export` wrote of others are theirs again.
    Raises NotFoundError for a missing file, InputError for one that is no file or holds no row.
    """
    source = _existing(Path(path))
    home = Home(config.storage.root).open()
    outcome = _Outcome()
    spool = open_spool(home)
    try:
        log = _Log(home, spool)
        if strict and _refuse(log, source, tenant, outcome):
            return outcome.as_dict()
        stream, replaced = read_lines(source), None
        while lines := list(islice(stream, BATCH_ROWS)):
            bad, known = _put(log, lines, tenant, outcome)
            _reject(home, source, bad, outcome)
            if known:
                replaced = snapshots.superseded(home) if replaced is None else replaced
                outcome.outdated += sum(_outdated(one, replaced) for one in known)
        flush(home, spool=spool)
    finally:
        spool.close()
    if not outcome.imported + outcome.duplicates + outcome.rejected:
        raise _empty(source)
    return outcome.as_dict()


def read_lines(path: Path) -> Iterator[Line]:
    """Each line that is not blank, parsed or with its error. No line is held in memory beyond `MAX_LINE_BYTES`."""
    with path.open("rb") as stream:
        number = 0
        while True:
            number += 1
            raw, whole = _next_line(stream)
            if not raw:
                return
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if raw.strip():
                yield _parse(raw, number, whole)


def interaction_of(row: Row, *, tier: Tier = "import", tenant: str = TENANT, now: float | None = None) -> Interaction:
    """The interaction that a row records. Its id is the tenant's own: the row's, else the hash of all the row says."""
    meta = row.metadata
    said = row.model_dump(mode="json", exclude_none=True, exclude={"feedback"})
    created = meta.timestamp.timestamp() if meta.timestamp else (time.time() if now is None else now)
    return Interaction(
        id=own_id(row_id(row), tenant),
        tier=tier,
        created=created,
        tenant=tenant,
        session_id=meta.session_id,
        user_id=meta.user_id,
        scenario=meta.scenario,
        skill=meta.skill,
        key=meta.key,
        messages=dump_messages(row),
        tools=row.tools,
        request_hash=digest(said),
    )


def feedback_of(row: Row, interaction: Interaction) -> list[Feedback]:
    """The row's judgements, their ids made of what they say: the same file again brings no second one."""
    result: list[Feedback] = []
    for item in row.feedback:
        fields = item.model_dump(mode="json", exclude_none=True)
        if correction := item.correction_message():
            fields["correction"] = correction
        twins = sum(f.name == item.name and f.value == item.value and f.comment == item.comment for f in result)
        name = digest([interaction.id, fields, twins], length=32)
        result.append(Feedback(id=f"fb-{name}", interaction_id=interaction.id, created=interaction.created,
                               tenant=interaction.tenant, **fields))  # fmt: skip
    return result


class _Log:
    """What is recorded already, looked up where a file names it."""

    def __init__(self, home: Home, spool: Spool) -> None:
        self.home, self.spool = home, spool

    @cached_property
    def feedback(self) -> dict[str, list[Feedback]]:
        """All that was ever said of an interaction: what was revised since is not said again by an older file."""
        flush(self.home, spool=self.spool)
        return recorded_feedback(self.home, revisions=list)

    def same(self, one: Interaction, taken: dict[str, str | None]) -> bool:
        """Whether the id of an interaction is free or its owner says the same."""
        known = self.spool.lookup(one.id)
        content = (known.request_hash if known else None) or one.request_hash
        return taken.setdefault(one.id, content) == one.request_hash

    def let_in(self, one: Interaction) -> Interaction:
        """The interaction, under its own id where `export` wrote what was let in here."""
        marked = REVIEWED + one.id
        here = one.id.startswith("q-") and self.spool.lookup(one.id) is None and self.spool.lookup(marked)
        return one.model_copy(update={"id": marked}) if here else one

    def new_feedback(self, row: Row, one: Interaction) -> list[Feedback]:
        """What the row says of itself and is not recorded yet, under whatever id."""
        judged = [f for f in feedback_of(row, one) if self.spool.lookup(f.id, "feedback") is None]
        if not judged or self.spool.lookup(one.id) is None:
            return judged
        before = [_judged(f) for f in self.feedback.get(one.id, ())]
        return [f for f in judged if _judged(f) not in before]


def _exported(row: Row, one: Interaction, stored: Interaction) -> bool:
    """Whether `export` wrote this row: with the time it has, and served answers with weights by what was thought of them."""
    if row.metadata.timestamp and abs(one.created - stored.created) > _SAME_SECONDS:
        return False
    unread = {"weight"} if stored.tier == "traffic" else set()
    return _said(one, unread) == _said(stored, unread)


def _said(one: Interaction, unread: set[str]) -> list[Any]:
    messages = [{k: v for k, v in message.items() if k not in unread and v is not None} for message in one.messages]
    return [messages, one.tools, one.tenant, one.session_id, one.user_id, one.scenario, one.skill, one.key]


def _judged(feedback: Feedback) -> list[Any]:
    # A rating of true is not a rating of 1, though Python finds them equal.
    value = (isinstance(feedback.value, bool), feedback.value)
    return [feedback.name, value, feedback.correction, feedback.comment, feedback.source]


def _put(log: _Log, lines: Iterable[Line], tenant: str | None, outcome: _Outcome) -> tuple[list[Line], list[Interaction]]:
    """Record what is good; returns the lines that are not, and the duplicates."""
    with exclusive(log.home.spool.with_name("import.lock")):  # nobody takes an id between the look and the put
        good, bad = _sorted_out(log, lines, tenant, {})
        judged = [f for row, one in good for f in log.new_feedback(row, one)]
        # In one transaction: a row that lost its feedback would be a demonstration, whatever was thought of it.
        fresh = log.spool.put([*(one for _, one in good), *judged])[: len(good)]
    outcome.imported += sum(fresh)
    outcome.duplicates += len(fresh) - sum(fresh)
    return bad, [one for (_, one), new in zip(good, fresh, strict=True) if not new]


def _outdated(interaction: Interaction, replaced: Superseded) -> bool:
    try:
        row = to_example(interaction.messages, id=interaction.id, seq=0, tier="import", key=interaction.key)
    except InputError:  # nothing of it is supervised
        return False
    return is_superseded(replaced, key=row.key, prompt=row.prompt, answer=row.messages[-1], tools=interaction.tools)


def _sorted_out(
    log: _Log, lines: Iterable[Line], tenant: str | None, taken: dict[str, str | None]
) -> tuple[list[tuple[Row, Interaction]], list[Line]]:
    """The rows that may go in, and the lines that may not; `taken` has what the ids of the lines before stand for."""
    good, bad, known = [], [], []
    for line in lines:
        if line.row is None:
            bad.append(line)
            continue
        try:
            row, owner = _owned(line.row, tenant)
        except InputError as error:
            bad.append(replace(line, error=error))
            continue
        one = log.let_in(interaction_of(row, tenant=owner))
        if row.id is None or log.same(one, taken):  # an id of our making is the hash of what it stands for
            good.append((row, one))
        else:
            known.append((line, row, one))
    recorded = find_all(log.home, [one.id for _, _, one in known], spool=log.spool)
    for line, row, one in known:
        stored = recorded.get(one.id)
        if stored is not None and _exported(row, one, stored):
            good.append((row, stored))
        else:
            error = InputError(f"id {row.id!r} belongs to another row", field="id", line=line.number)
            bad.append(replace(line, error=error))
    return good, sorted(bad, key=lambda line: line.number)


def _owned(row: Row, tenant: str | None) -> tuple[Row, str]:
    """The row as its tenant gave it, and who that is. Raises InputError for an id that only another tenant's can be."""
    if row.id is None or not row.id.startswith(OTHERS) or tenant not in (None, TENANT):
        return row, tenant or TENANT
    owner, _, id = row.id.removeprefix(OTHERS).partition(":")
    if tenant is not None or not (owner and id):
        raise InputError(f"id: may not begin with {OTHERS!r}", field="id")
    return row.model_copy(update={"id": id}), owner


def _refuse(log: _Log, path: Path, tenant: str | None, outcome: _Outcome) -> bool:
    """The first pass of `strict`: note what is bad; nothing was written yet."""
    taken: dict[str, str | None] = {}
    stream, empty = read_lines(path), True
    while lines := list(islice(stream, BATCH_ROWS)):
        empty = False
        for line in _sorted_out(log, lines, tenant, taken)[1]:
            _note(outcome, line)
    if empty:
        raise _empty(path)
    return outcome.rejected > 0


def _reject(home: Home, path: Path, lines: Iterable[Line], outcome: _Outcome) -> None:
    rows = []
    for line in lines:
        detail = f"line {line.number}: {_note(outcome, line).message}"
        row = line.row.model_dump(mode="json", exclude_none=True) if line.row else line.raw
        rows.append({"source": f"import {path.name}", "reason": "invalid", "detail": detail, "row": row})
    quarantine.set_aside(home, rows)


def _note(outcome: _Outcome, line: Line) -> InputError:
    """Count a bad line; returns what is wrong with it."""
    assert line.error is not None
    outcome.rejected += 1
    if len(outcome.errors) < MAX_ERRORS:
        outcome.errors.append({"line": line.number, "field": line.error.field, "message": line.error.message})
    return line.error


def _next_line(stream: BinaryIO) -> tuple[bytes, bool]:
    """The next line (at most `MAX_LINE_BYTES` of it), and whether that is all of it. Empty at the end of the file."""
    raw = stream.readline(MAX_LINE_BYTES + 1)
    if len(raw) <= MAX_LINE_BYTES or raw.endswith(b"\n"):
        return raw, True
    while (rest := stream.readline(_CHUNK)) and not rest.endswith(b"\n"):
        pass
    return raw, False


def _parse(raw: bytes, number: int, whole: bool) -> Line:
    try:
        if not whole:
            raise InputError(f"the line is longer than {MAX_LINE_BYTES} bytes", line=number)
        return Line(number, row=read_row(raw, line=number))
    except InputError as error:
        start = raw[: quarantine.RAW_CHARACTERS].decode("utf-8", "replace").rstrip("\r\n")
        return Line(number, error=error, raw=start)


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file.", hint="Name one JSONL file.")
    if not path.exists():
        raise NotFoundError(f"{path} does not exist.", hint="Name a JSONL file: one row a line.")
    return path


def _empty(path: Path) -> InputError:
    return InputError(f"{path} holds no row.", hint='Each line is a row: {"messages": [...]}.')
