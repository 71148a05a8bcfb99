"""Versions switched under load: does a request fail, and is every answer the one that the version it names would give?

Versions go round in a ring that is longer than what a replica keeps resident, so that each promotion loads one; every
fifth switch is a rollback. It goes through `Releases`, in a process that gives way as a cycle does, and waits until the
replica says it serves.
"""

import json
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llmagentos.benchmark.serve_bare import Asked
from llmagentos.benchmark.serve_client import Heard
from llmagentos.benchmark.serve_figures import Figure, Found, differences, quantile, ratios
from llmagentos.benchmark.serve_place import Place, rate
from llmagentos.core.records import ModelVersion
from llmagentos.local.priority import give_way
from llmagentos.models.loading import load_model
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases, wait_confirmed
from llmagentos.storage.flush import flush
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

TIE = 1e-4
"""Logits nearer than this are a tie: which one wins depends on the order of additions."""
_RING = 4
_NOISE = 0.02
_ROLLBACK_EVERY = 5
_CLIENTS = 8
_CONFIRM_SECONDS = 60.0
_BACK_SECONDS = 5.0
"""Within which a rollback is to be served."""
_ENDLESS = 3600.0
_BATCH = 32

Spoken = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids of a prompt and of its answer."""
Release = Callable[[Home, Sequence[int], bool], None]
"""What releases the next version of a ring in a home, or goes back to the one before."""


@dataclass
class Checked:
    """What became of the answers: each is whole and recorded under the version it named, and that version says it again."""

    answers: int = 0
    failed: int = 0
    unrecorded: int = 0
    """Not in the record as they were said, under the version that the reply named."""
    distinct: int = 0
    """Different (version, prompt, answer); those are said again."""
    ties: int = 0
    """With a token that was not the best one and within `TIE` of it."""
    not_reproduced: int = 0
    told_apart: int = 0
    """That another version of the ring would not have said: what makes the check one."""
    versions: dict[int, int] = field(default_factory=dict)
    """Version -> its answers."""


@dataclass
class Waits:
    """Seconds until a release was served."""

    forward: list[float] = field(default_factory=list)
    """Of promotions, for which a version is loaded."""
    back: list[float] = field(default_factory=list)
    """Of rollbacks."""

    def add(self, other: "Waits") -> None:
        self.forward += other.forward
        self.back += other.back

    def figures(self) -> list[Figure]:
        return [Figure("slowest rollback", [max(self.back)], "s", most=_BACK_SECONDS)] if self.back else []

    def facts(self) -> dict[str, Any]:
        told = {"switch_seconds_p50": self.forward, "rollback_seconds_p50": self.back}
        medians = {name: round(quantile(seconds, 0.5), 3) if seconds else None for name, seconds in told.items()}
        return {"switches": len(self.forward) + len(self.back), "rollbacks": len(self.back), **medians}


def measure(there: Place, asked: Sequence[Asked], rounds: int, switches: int, pace: float) -> Found:
    """Rounds with and without switches in turn. Raises TimeoutError where a release is not served."""
    ring = [Releases(there.home).current().champion or 0, *(v.id for v in perturbed(there.home, _RING - 1))]
    phases: dict[str, list[list[Heard]]] = {"still": [], "switching": []}
    waits = Waits()
    with _releasing(there) as release:
        _under_load(there, asked, lambda: switch(there.home, ring, 1, pace, release))
        for number in range(rounds):
            count = switches // rounds + (number < switches % rounds)
            sides = {
                "still": lambda n=count: time.sleep(n * pace),
                "switching": lambda n=count: waits.add(switch(there.home, ring, n, pace, release)),
            }
            for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
                phases[name].append(_under_load(there, asked, sides[name]))
    everything = [heard for phase in phases.values() for heard in phase]
    checked = check(there.home, [one for heard in everything for one in heard], ring)
    return Found([*_figures(phases, checked), *waits.figures()], {**vars(checked), "questions": len(asked), **waits.facts()})


def _under_load(there: Place, asked: Sequence[Asked], meanwhile: Any) -> list[Heard]:
    with there.client.sending(there.load(asked, stream=True, clients=_CLIENTS, seconds=_ENDLESS)) as heard:
        meanwhile()
        there.client.stop()
        return heard()


def _figures(phases: dict[str, list[list[Heard]]], checked: Checked) -> list[Figure]:
    stalls = {name: [quantile((h.stall for h in heard), 0.99) for heard in each] for name, each in phases.items()}
    rates = {name: [rate([h for h in heard if h.ok]) for heard in each] for name, each in phases.items()}
    return [
        Figure("failed under switches", [checked.failed], "requests", most=0),
        Figure("not said again", [checked.not_reproduced + checked.unrecorded], "answers", most=0),
        Figure("longest stall, added p99", differences(stalls["switching"], stalls["still"], 1000), "ms", most=_token_ms(phases)),
        Figure("over no switches", ratios(rates["switching"], rates["still"]), least=0.95),
    ]


def _token_ms(phases: dict[str, list[list[Heard]]]) -> float:
    """Median time of a token behind the first, without switches, in ms."""
    whole = [one for heard in phases["still"] for one in heard if one.ok and one.tokens > 1]
    return 1000 * quantile(((one.seconds - one.first) / (one.tokens - 1) for one in whole), 0.5) if whole else 0.0


def perturbed(home: Home, count: int) -> list[ModelVersion]:
    """Further versions: the champion's weights with a little noise, as if each had learned something of its own."""
    from safetensors.torch import load_file, save_file

    champion = Versions(home).get(Releases(home).current().champion or 0)
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        with tempfile.TemporaryDirectory(dir=home.versions, prefix=".noisy-") as work:
            folder = Path(work) / "noisy"
            folder.mkdir()
            for path in Path(champion.dir).iterdir():
                if path.suffix == ".safetensors":
                    tensors = {name: t + _NOISE * t.std() * torch.randn_like(t) for name, t in load_file(path).items()}
                    save_file(tensors, folder / path.name, metadata={"format": "pt"})
                elif path.name != "manifest.json":
                    (folder / path.name).write_bytes(path.read_bytes())
            made.append(Versions(home).add(folder, move=True, role="agent", parent=champion.id))
    return made


def release_next(home: Home, ring: Sequence[int], back: bool) -> None:
    """Promote the version behind the champion, or go back to the one before, and wait until it is served.

    Raises TimeoutError where it is not.
    """
    releases = Releases(home)
    now = releases.current()
    if back and now.previous is not None:
        release = releases.rollback(by="benchmark", reason="switch under load")
    else:
        following = ring[(ring.index(now.champion or 0) + 1) % len(ring)]
        release = releases.promote(following, by="benchmark", reason="switch under load")
    if not wait_confirmed(home, release, _CONFIRM_SECONDS):
        raise TimeoutError(f"version {release.champion} was not served within {_CONFIRM_SECONDS:g} s")


def switch(home: Home, ring: Sequence[int], count: int, pace: float, release: Release = release_next) -> Waits:
    """Release the ring's versions in turn, one every `pace` seconds, and how long each took until it was served.

    Raises TimeoutError where one is not.
    """
    waits = Waits()
    for number in range(count):
        back, began = number % _ROLLBACK_EVERY == _ROLLBACK_EVERY - 1, time.monotonic()
        release(home, ring, back)
        seconds = time.monotonic() - began
        (waits.back if back else waits.forward).append(seconds)
        time.sleep(max(0.0, pace - seconds))
    return waits


@contextmanager
def _releasing(there: Place) -> Iterator[Release]:
    """`release_next` in a process of its own that gives way; behind it the new engine gets its core."""

    def release(*asked: Any) -> None:
        pool.apply(release_next, asked)
        there.pin_engines()

    with multiprocessing.get_context("spawn").Pool(1, give_way, (there.config.training.nice,)) as pool:
        yield release


def check(home: Home, heard: Sequence[Heard], ring: Sequence[int]) -> Checked:
    """Hold every answer against the record and against its version, generating in float32."""
    checked = Checked(len(heard), failed=sum(not one.ok for one in heard))
    flush(home)
    columns = ["id", "model_version", "prompt_ids", "answer_ids", "messages"]
    recorded = {row["id"]: row for row in Tables(home).read("interactions", columns=columns).to_pylist()}
    spoken: defaultdict[int, set[Spoken]] = defaultdict(set)
    for one in heard:
        if not one.ok:
            continue
        reply = one.reply()
        version, row = int(reply["model_version"]), recorded.get(reply["interaction_id"])
        checked.versions[version] = checked.versions.get(version, 0) + 1
        if row is None or row["model_version"] != version or _content(row) != one.text:
            checked.unrecorded += 1
            continue
        spoken[version].add((tuple(row["prompt_ids"]), tuple(row["answer_ids"])))
    for version, answers in sorted(spoken.items()):
        gaps = repeat(Versions(home).get(version), sorted(answers))
        checked.distinct += len(gaps)
        checked.ties += sum(0 < gap < TIE for gap in gaps)
        checked.not_reproduced += sum(gap >= TIE for gap in gaps)
        other = ring[(ring.index(version) + 1) % len(ring)]
        checked.told_apart += sum(gap >= TIE for gap in repeat(Versions(home).get(other), sorted(answers)))
    return checked


def repeat(version: ModelVersion, answers: Sequence[Spoken]) -> list[float]:
    """How far each answer is from what the version says greedily: the most any of its tokens lies below the best logit.

    0 is the same answer token for token. Every token is judged behind the answer's own tokens before it, which up to the
    first difference is generating it again, and stricter behind it.
    """
    model = load_model(version.dir, "float32")
    gaps: list[float] = []
    with torch.inference_mode():
        for at in range(0, len(answers), _BATCH):
            part = answers[at : at + _BATCH]
            rows = [torch.tensor([*prompt, *answer]) for prompt, answer in part]
            logits = model(input_ids=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)).logits
            for row, (prompt, answer), scores in zip(rows, part, logits, strict=True):
                own = scores[len(prompt) - 1 : len(prompt) + len(answer) - 1]
                below = own.max(-1).values - own.gather(-1, row[len(prompt) :, None])[:, 0]
                gaps.append(float(below.max()))
    return gaps


def _content(row: dict[str, Any]) -> str:
    return str(json.loads(row["messages"])[-1]["content"] or "")
