"""New, remembered, general and judged rows as one file of token ids, rendered by Ray Data as a stream.

Rendering is the only place where text becomes training ids. The plan over these rows (plan.py) is made afterwards,
from their lengths.
"""

import functools
import json
import os
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmagentos.config import Config
from llmagentos.core.errors import InputError
from llmagentos.core.examples import silenced
from llmagentos.core.hashing import digest, fraction
from llmagentos.core.messages import normalise
from llmagentos.core.records import Example
from llmagentos.core.superseding import merge
from llmagentos.models.chat import Renderer
from llmagentos.replay.buffer import Buffer
from llmagentos.replay.conversations import conversed
from llmagentos.replay.frames import framed
from llmagentos.replay.preference import Kind, preference_rows
from llmagentos.replay.refilled import refilled
from llmagentos.replay.retelling import retold
from llmagentos.replay.rewording import rewordings
from llmagentos.replay.selection import quotas
from llmagentos.storage import snapshots, suites
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot
from llmagentos.training.beside import each, later
from llmagentos.training.launch import lone_node
from llmagentos.training.rows import PREFERENCE, ROWS, write_arrow

_TEXT = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("stratum", pa.string()), ("made", pa.bool_()), ("messages", pa.string()),
     ("tools", pa.string()), ("like", pa.string()), ("label", pa.float32()), ("weight", pa.float32()), ("pair", pa.string())]
)  # fmt: skip
_BLOCK_ROWS = 2000
_REWORDED = 4000
"""Remembered rows of which one update makes other wordings: more than it can ask."""


def render_mix(
    sources: Mapping[str, Sequence[Mapping[str, Any]]],
    renderer: Path,
    out: Path,
    *,
    max_length: int,
    on_ray: bool = True,
    processes: int = 1,
) -> dict[str, int]:
    """Write the rows of every source to `out` and return rows kept by source; `dropped` counts those too long.

    A row needs `id`, `messages` and may have `tools`; one of the source `preference` has `label`, `weight` and `pair` too.
    Where `on_ray` is false the same code runs in this process, with `processes` above 1 in others beside it too.
    """
    text = [_block(source, rows) for source, rows in sources.items() if rows]
    kept: dict[str, int] = {"dropped": sum(len(rows) for rows in sources.values())}

    def counted() -> Iterator[pa.RecordBatch]:
        for table in _on_ray(text, renderer, max_length) if on_ray else _here(text, renderer, max_length, processes):
            for batch in table.cast(ROWS).to_batches():
                for source in batch.column("source").to_pylist():
                    kept[source] = kept.get(source, 0) + 1
                    kept["dropped"] -= 1
                yield batch

    write_arrow(out, counted(), ROWS)
    return kept


def _block(source: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    marks = ("label", "weight", "pair") if source == PREFERENCE else ()
    made = [
        {
            "id": str(row["id"]),
            "source": source,
            "stratum": row.get("skill"),
            "made": row.get("made", False),
            "messages": json.dumps(row["messages"], ensure_ascii=False),
            "tools": json.dumps(row["tools"], ensure_ascii=False) if row.get("tools") else None,
            "like": json.dumps(row["like"], ensure_ascii=False) if row.get("like") else None,
            **{name: row[name] for name in marks},
        }
        for row in rows
    ]
    return pa.Table.from_pylist(made, schema=_TEXT)


def _here(text: Sequence[pa.Table], renderer: Path, max_length: int, processes: int) -> Iterator[pa.Table]:
    render = functools.partial(render_batch, folder=str(renderer), max_length=max_length)
    if processes < 2:
        yield from map(render, text)
    else:
        yield from each(render, [(part,) for table in text for part in _split(table)], processes)


def _on_ray(text: Sequence[pa.Table], renderer: Path, max_length: int) -> Iterator[pa.Table]:
    import ray.data

    blocks = [part for table in text for part in _split(table)]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    data = ray.data.from_arrow(blocks).map_batches(
        render_batch,
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=0.5,
        # A lone node of ours says it has more CPUs than it has, and for each task more Ray would start a process.
        concurrency=os.cpu_count() if lone_node() else None,
        fn_kwargs={"folder": str(renderer), "max_length": max_length},
    )
    yield from data.iter_batches(batch_format="pyarrow", batch_size=None)


def _split(table: pa.Table) -> list[pa.Table]:
    return [table.slice(at, _BLOCK_ROWS) for at in range(0, table.num_rows, _BLOCK_ROWS)]


def render_batch(table: pa.Table, *, folder: str, max_length: int) -> pa.Table:
    """A batch of text rows as ids and masks; rows that cannot be trained on are left out."""
    renderer = _renderer(folder)
    made = []
    for row in table.to_pylist():
        try:
            tools = json.loads(row["tools"]) if row["tools"] else None
            rendered = renderer.example(json.loads(row["messages"]), tools)
            like = renderer.example(json.loads(row["like"]), tools) if row["like"] else None
        except InputError:
            continue
        if len(rendered.ids) <= max_length:
            facts = {name: row[name] for name in ("id", "source", "stratum", "made", "label", "weight", "pair")}
            asks = like and [token for token, supervised in zip(like.ids, like.mask, strict=True) if supervised]
            made.append({**facts, "ids": rendered.ids, "mask": rendered.mask, "asks": asks})
    return pa.Table.from_pylist(made, schema=ROWS)


@functools.lru_cache(maxsize=2)
def _renderer(folder: str) -> Renderer:
    return Renderer(folder)


def mix_rows(
    config: Config,
    home: Home,
    snapshot: Snapshot,
    renderer: Path,
    out: Path,
    *,
    preference: Kind | None = None,
    known: Collection[str] = (),
    missed: Sequence[Example] = (),
    plain: bool = False,
) -> dict[str, int]:
    """Render what an update on `snapshot` may train on: its rows, the memory that still holds, a part of the general rows.

    Rows that the weights have `missed` are as new to them, and those whose ids are `known` stand with the memory. New rows come
    also in made wordings (rewording.py) and, unless `plain`, remembered ones too, and facts that changed as they used to be
    asked (retelling.py); for a strategy that reads them come the snapshot's judged rows, as `preference` wants them. What a
    suite holds out is not trained on, also where it was registered after the rows were collected.
    """
    buffer = Buffer(home, config.replay)
    version = buffer.version
    targets = free(home, snapshot, [*snapshot.examples(), *missed])
    examples = [e.model_dump() for e in targets]
    new = [e for e in examples if e["id"] not in known]
    again = {e.id for e in missed}
    memory = [row for row in buffer.beside(snapshot) if row["id"] not in again] + [e for e in examples if e["id"] in known]
    held, seed = _held(home, snapshot), config.update.seed
    # Other ones in each update: what is remembered in two wordings alone is soon understood in those alone.
    wordings, salt = 0 if plain else config.replay.memory_wordings, digest([snapshot.id, seed])
    on_ray = config.training.workers > 0
    processes = 1 if on_ray else config.training.processes
    beside = processes if wordings else 1
    more = later(_reworded, config, _some(memory, salt), wordings, held, salt, [*memory, *examples], processes=beside)
    told = [] if plain else _told(home, buffer, snapshot, [*memory, *examples], held)
    anew = [row for row in told if row["key"] in snapshot.superseded]
    reworded = functools.partial(_reworded, config, wanted=config.replay.wordings, held=held, seed=seed)
    some = functools.partial(_drawn, most=config.replay.general_rows, salt=snapshot.id)
    general = _unchanged(buffer.rows("general", snapshot.superseded, some), [*memory, *examples, *told])
    sources = {
        "new": [*new, *anew, *reworded([*new, *anew], beside=memory)],
        "memory": [*memory, *more(), *(row for row in told if row["key"] not in snapshot.superseded)],  # waited for at last
        "general": general,
    }
    if preference is not None:
        sources[PREFERENCE] = preference_rows(preference, targets, free(home, snapshot, snapshot.judged()))
    kept = render_mix(sources, renderer, out, max_length=config.model.max_length, on_ray=on_ray, processes=processes)
    replace_text(_told_of(out), json.dumps({"replay_version": version, **kept}))
    return kept


def facts_of(rows: Path) -> dict[str, int]:
    """What `mix_rows` told of a file: rows kept by source, `dropped`, and `replay_version`, that of the table they are from."""
    told = _told_of(rows)
    return dict(json.loads(told.read_text("utf-8"))) if told.exists() else {}


def _told_of(rows: Path) -> Path:
    return rows.with_suffix(".json")


def _reworded(
    config: Config,
    rows: Sequence[dict[str, Any]],
    wanted: int,
    held: Mapping[str | None, set[str]],
    seed: int | str,
    beside: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Made rows: in whole wordings that others were asked in, as far as there are any, else with words left out; commands with
    other arguments, and conversations about others."""
    replay, given = config.replay, {"held": held, "seed": seed, "beside": beside}
    carried = framed(rows, wanted if replay.frames else 0, **given)
    calls = refilled(rows, wanted // 2 if replay.refilled else 0, **given)
    talks = conversed(rows, wanted // 2 if replay.conversations else 0, **given)
    return [*carried, *rewordings([*rows, *carried], wanted, **given), *calls, *talks]


def _told(
    home: Home, buffer: Buffer, snapshot: Snapshot, now: Sequence[dict[str, Any]], held: Mapping[str | None, set[str]]
) -> list[dict[str, Any]]:
    superseded = merge(snapshots.superseded(home), snapshot.superseded)
    return retold(buffer.replaced(snapshot.superseded), now, superseded, held) if superseded else []


def free(home: Home, snapshot: Snapshot, rows: Sequence[Example]) -> list[Example]:
    """What may be trained on of a snapshot's rows: nothing that a suite holds out by now. What has retired, or does with the
    snapshot, was settled when its rows were collected."""
    held = suites.heldout_prompts(home, with_retired=False, retiring=snapshot.retired)
    return [row.model_copy(update={"messages": silenced(row.messages, held)}) for row in rows if row.prompt not in held]


def _unchanged(general: Sequence[dict[str, Any]], newer: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pinned rows whose prompts no newer row answers otherwise."""
    said: dict[str, set[str]] = defaultdict(set)
    for row in newer:
        said[_question(row)].add(normalise(row["answer"]))
    return [r for r in general if (known := said.get(_question(r))) is None or normalise(r["answer"]) in known]


def _question(row: Mapping[str, Any]) -> str:
    """What is asked with which tools at hand."""
    return digest([row["prompt"], row.get("tools") or None])


def _some(memory: list[dict[str, Any]], salt: str) -> list[dict[str, Any]]:
    """Rows of as many keys as make about `_REWORDED` rows, other keys for each salt."""
    keys: dict[str, list[dict[str, Any]]] = {}
    for row in memory:
        if row["key"] is not None:
            keys.setdefault(row["key"], []).append(row)
    found: list[dict[str, Any]] = []
    for key in sorted(keys, key=lambda key: fraction(key, salt=salt)):
        if len(found) >= _REWORDED:
            break
        found += keys[key]
    return found


def _drawn(rows: list[dict[str, Any]], most: int, salt: str) -> list[dict[str, Any]]:
    """At most `most` of the rows, by quotas of the skills: for each salt others, so that all have their turn in time."""
    if not most or len(rows) <= most:
        return rows
    skills: dict[Any, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: str(row["id"])):
        skills.setdefault(row["skill"], []).append(row)
    room, rng = quotas({skill: len(found) for skill, found in skills.items()}, most), random.Random(salt)
    return [row for skill, found in skills.items() for row in rng.sample(found, room[skill])]


def _held(home: Home, snapshot: Snapshot) -> dict[str | None, set[str]]:
    """Key -> normalised prompts that must not be trained on; suites of the snapshot itself are not registered yet."""
    found: dict[str | None, set[str]] = {None: suites.heldout_prompts(home)}
    for item in [*snapshot.heldout, *(item for suite in suites.live(home) if suite.kind != "recall" for item in suite.items)]:
        found.setdefault(item.key, set()).add(item.prompt)
    return found
