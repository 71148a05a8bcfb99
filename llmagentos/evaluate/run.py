"""Step 4: versions answer suites; the gate judges the challenger."""

import codecs
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmagentos.config import Config
from llmagentos.core.clean import clean
from llmagentos.core.errors import ConfigError, InputError, IntegrityError, NotFoundError
from llmagentos.core.evaluation import Decision, EvalItem, EvalReport, Flip, Suite
from llmagentos.core.hashing import digest
from llmagentos.core.messages import answer_text, read_row
from llmagentos.core.records import ModelVersion
from llmagentos.evaluate import outcomes
from llmagentos.evaluate.agreement import measure_agreement
from llmagentos.evaluate.ask import ask, ask_each
from llmagentos.evaluate.drift import measure_drift
from llmagentos.evaluate.exam import Exam
from llmagentos.evaluate.gate import GateFacts, decide
from llmagentos.evaluate.metrics import by_suite, flips, grouped, stale_rates
from llmagentos.evaluate.score import rendered_item
from llmagentos.evaluate.shift import Shift, input_shift
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_renderer
from llmagentos.registry.versions import Versions
from llmagentos.storage import suites as store
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import verify
from llmagentos.training.rows import Rows


@dataclass(frozen=True)
class Judgement:
    """The decision and all it stands on."""

    decision: Decision
    reports: dict[int, EvalReport]
    """By version: champion, challenger, anchor and student, each asked the same suites."""
    suites: list[Suite]
    flips: list[Flip]
    stale: dict[str, float]
    """Shares of superseded items answered with the old and with the new value by the challenger."""
    drift: dict[str, float] = field(default_factory=dict)
    """Forward KL(champion ‖ challenger) per supervised token on `new` and `old` rows."""
    student: dict[str, float] = field(default_factory=dict)
    """How like the challenger its student answers, over the words of either (agreement.py)."""
    shift: Shift | None = None
    """How the new rows' inputs differ from the remembered ones."""


def judge(
    config: Config,
    home: Home,
    exam: Exam,
    *,
    champion: ModelVersion | None,
    challenger: ModelVersion,
    anchor: ModelVersion | None = None,
    student: ModelVersion | None = None,
    rows: Path | None = None,
) -> Judgement:
    """Ask everybody, decide on the challenger, and write each version's scores into its record.

    `rows` are the rendered rows of the update: drift and the shift of the inputs are measured on them. Raises IntegrityError
    for weights that are not as they were written; a challenger of which that is so is rejected.
    """
    broken = _broken(challenger)
    asked = {v.id: v for v in (champion, challenger, anchor, student) if v is not None and not (v is challenger and broken)}
    moved: dict[str, float] = {}

    def drifted() -> None:
        if champion and rows and not broken:
            moved.update(measure_drift(config, champion, challenger, rows))

    reports = dict(zip(asked, ask_each(config, list(asked.values()), exam.suites, meanwhile=drifted), strict=True))
    reports.setdefault(challenger.id, EvalReport(version=challenger.id, results=[], suites={}))
    for number, report in reports.items():
        _keep_scores(home, number, report)
    facts = GateFacts(
        champion=reports[champion.id] if champion else None,
        challenger=reports[challenger.id],
        anchor=reports[anchor.id] if anchor else None,
        old=exam.old,
        new=exam.new,
        same_weights=champion is not None and champion.manifest_hash == challenger.manifest_hash,
        failures=broken,
        drift=moved,
    )
    return Judgement(
        decision=decide(facts, config.gate),
        reports=reports,
        suites=exam.suites,
        flips=flips(reports[champion.id], reports[challenger.id], exam.suites) if champion else [],
        stale=stale_rates(reports[challenger.id], exam.stale),
        drift=moved,
        student=measure_agreement(config, challenger, student, exam.suites, (reports[challenger.id], reports[student.id]))
        if student and not broken
        else {},
        shift=input_shift(Rows(rows)) if rows else None,
    )


def _broken(version: ModelVersion) -> list[str]:
    try:
        verify(Path(version.dir), version.manifest_hash)
    except IntegrityError as error:
        return [error.message]
    return []


def evaluate(
    config: Config,
    suite: str | Path | None = None,
    version: str = "champion",
    rows: bool = False,
    register: str | None = None,
) -> dict[str, Any]:
    """Answer a suite file, or all live suites, with one version: CONTRACTS' figures.

    Raises ConfigError for a name to register without a suite, InputError naming the line of a bad row, NotFoundError for a
    missing file or version.
    """
    if register is not None and not suite:
        raise ConfigError(f"--register {register} names no rows to keep.", hint="Say which with --suite FILE.")
    home = Home(config.storage.root).open()
    versions = Versions(home)
    chosen = versions.resolve(version)
    renderer = load_renderer(chosen.dir) if versions.has_weights(chosen.id) else None
    suites = [read_suite(suite, register, renderer)] if suite else store.live(home)
    report = ask(config, chosen, suites)
    if register is not None:  # at last: what could not be asked would be in the way of every update
        store.register(home, register, "registered", suites[0].items)
    merged = Suite(name="all", kind="registered", hash="", items=[_renamed(s, i) for s in suites for i in s.items])
    results = [r.model_copy(update={"item_id": f"{r.suite}/{r.item_id}"}) for r in report.results]
    figures: dict[str, Any] = {"version": chosen.id, **grouped(results, merged)}
    if not suite:
        shares = by_suite(report)
        figures["suites"] = {s.name: {"n": len(s.items), "accuracy": shares.get(s.name, 0.0)} for s in suites}
    if rows:
        wanted = {(s.name, i.id): answer_text(i.messages[-1]) for s in suites for i in s.items}
        figures["rows"] = [
            {"id": r.item_id, "right": r.right, "answer": r.answer, "wanted": wanted[(r.suite, r.item_id)]}
            for r in report.results
        ]
    return figures


def read_suite(path: str | Path, name: str | None = None, renderer: Renderer | None = None) -> Suite:
    """A suite from a JSONL file of rows whose last message is the assistant's right answer.

    Raises InputError naming the line of a row that cannot be read, or that `renderer` cannot ask.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise NotFoundError(f"cannot read the suite {path}: {error.strerror}.") from None
    items: dict[str, EvalItem] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            item = _item(line, number)
            if renderer is not None:
                _ask(renderer, item, number)
            items[item.id if item.id not in items else f"{item.id}#{number}"] = item
    if not items:
        raise InputError(f"the suite {path} holds no rows.", field="suite")
    unique = [i.model_copy(update={"id": k}) for k, i in items.items()]
    return Suite(name=name or path.stem, kind="registered", hash=store.suite_hash(unique), items=unique)


def _item(line: bytes, number: int) -> EvalItem:
    try:
        row = read_row(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, line=number)
    except InputError as error:
        raise InputError(f"line {number}: {error.message}.", field=error.field, line=number) from None
    messages = [m.model_dump(mode="json", exclude_none=True) for m in row.messages]
    if messages[-1]["role"] != "assistant":
        raise InputError(f"line {number}: the last message must be the assistant's.", field="messages", line=number)
    return EvalItem(
        id=row.id or digest([messages, row.tools], length=16),
        # The question as it stands, the answer as what is learned is cleaned: else a character that nobody sees makes it wrong.
        messages=[*messages[:-1], *clean(messages[-1:])],
        tools=row.tools,
        skill=row.metadata.skill or "default",
        key=row.metadata.key,
    )


def _ask(renderer: Renderer, item: EvalItem, number: int) -> None:
    try:
        rendered_item(renderer, item)
    except InputError as error:
        raise InputError(f"line {number}: {error.message}", field=error.field, line=number) from None


def _renamed(suite: Suite, item: EvalItem) -> EvalItem:
    return item.model_copy(update={"id": f"{suite.name}/{item.id}"})


def _keep_scores(home: Home, number: int, report: EvalReport) -> None:
    versions = Versions(home)
    scores = {k: round(v, 4) for k, v in by_suite(report).items()}
    versions.change(number, scores={**versions.get(number).scores, **scores})
    outcomes.keep(home, number, report)


def table(judgement: Judgement, names: dict[str, int | None]) -> list[dict[str, Any]]:
    """One row a suite: {suite, n, <name>: accuracy of that version}."""
    shares = {name: by_suite(judgement.reports[number]) for name, number in names.items() if number in judgement.reports}
    return [
        {"suite": s.name, "n": len(s.items), **{name: share.get(s.name, 0.0) for name, share in shares.items()}}
        for s in judgement.suites
    ]
