"""Every answer is held against the record and against its version."""

import json

import pytest

from llmagentos.benchmark.serve_client import Heard
from llmagentos.benchmark.serve_switch import Waits, check, perturbed, repeat, switch
from llmagentos.core.records import Interaction
from llmagentos.engines.batch import generate_greedy
from llmagentos.models.loading import load_model, load_renderer
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.storage.flush import open_spool
from llmagentos.storage.layout import Home
from tests.tiny import add_tiny


@pytest.fixture
def ring(home: Home) -> list[int]:
    first = add_tiny(home, 1).id
    Releases(home).first(first, by="test", reason="test")
    return [first, *(version.id for version in perturbed(home, 2))]


def spoken(home: Home, version: int, text: str = "Hello", tokens: int = 8) -> tuple[tuple[int, ...], tuple[int, ...]]:
    found = Versions(home).get(version)
    prompt = load_renderer(found.dir).prompt([{"role": "user", "content": text}])
    (answer,) = generate_greedy(
        load_model(found.dir), [prompt], stop_ids=(), pad_id=0, max_new_tokens=tokens, batch_tokens=10**6
    )  # fmt: skip
    return tuple(prompt), tuple(answer)


def answered(home: Home, version: int, id: str, **changed: object) -> Heard:
    """Recorded, and heard over HTTP; `changed` are fields of the record that are otherwise."""
    prompt, answer = spoken(home, version)
    fields = {"model_version": version, "prompt_ids": list(prompt), "answer_ids": list(answer)} | changed
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "said"}]
    spool = open_spool(home)
    spool.put([Interaction(id=id, created=1.0, messages=said, **fields)])
    spool.close()
    reply = {"interaction_id": id, "model_version": version, "usage": {"completion_tokens": 8}}
    reply["choices"] = [{"message": {"content": "said"}}]
    return Heard(0, sent=0.0, status=200, parts=[(0.0, json.dumps(reply).encode())])


def test_a_version_repeats_its_own_answers_and_no_other_s(home: Home, ring: list[int]):
    versions = [Versions(home).get(number) for number in ring]
    answers = [spoken(home, ring[0], text) for text in ("Hello", "What does the lamp cost?", "你好")]
    assert repeat(versions[0], answers) == [0.0, 0.0, 0.0]
    other = add_tiny(home, 9)
    assert min(repeat(other, answers)) > 0.01


def test_one_wrong_token_is_found_wherever_it_stands(home: Home, ring: list[int]):
    prompt, answer = spoken(home, ring[0])
    for place in range(len(answer)):
        wrong = (*answer[:place], (answer[place] + 1) % 400, *answer[place + 1 :])
        assert repeat(Versions(home).get(ring[0]), [(prompt, wrong)])[0] > 0


def test_perturbed_versions_differ_and_are_whole(home: Home, ring: list[int]):
    weights = [(home.version(number) / "model.safetensors").read_bytes() for number in ring]
    assert len(set(weights)) == 3
    assert all(Versions(home).has_weights(number) for number in ring)


def test_every_kind_of_wrong_answer_is_counted(home: Home, ring: list[int]):
    _, other = spoken(home, add_tiny(home, 9).id)
    heard = [
        answered(home, ring[0], "sound"),
        answered(home, ring[1], "sound too"),
        answered(home, ring[0], "of another version", model_version=ring[1]),
        answered(home, ring[0], "said otherwise", answer_ids=list(other)),
        Heard(0, sent=0.0, status=503),
    ]
    heard[0].parts, kept = [(0.0, heard[0].parts[0][1].replace(b"said", b"made up"))], heard[0].parts
    assert check(home, heard[:1], ring).unrecorded == 1  # another text than the record's
    heard[0].parts = kept
    checked = check(home, heard, ring)
    assert (checked.answers, checked.failed, checked.unrecorded) == (5, 1, 1)
    assert (checked.distinct, checked.ties, checked.not_reproduced) == (3, 0, 1)
    assert checked.versions == {ring[0]: 3, ring[1]: 1}


def test_switches_go_round_the_ring_and_back(home: Home, ring: list[int]):
    waits = switch(home, ring, 5, pace=0)
    assert (len(waits.forward), len(waits.back)) == (4, 1)
    moves = [(release.action, release.champion) for release in Releases(home).all()[1:]]
    a, b, c = ring
    assert moves == [("promote", b), ("promote", c), ("promote", a), ("promote", b), ("rollback", a)]


def test_rollbacks_are_told_apart_and_the_slowest_has_a_target():
    waits = Waits()
    assert (waits.figures(), waits.facts()["rollback_seconds_p50"]) == ([], None)
    waits.add(Waits([2.0, 3.0, 4.0], [0.5]))
    waits.add(Waits([9.0], [6.0]))
    wanted = {"switches": 6, "rollbacks": 2, "switch_seconds_p50": 3.0, "rollback_seconds_p50": 0.5}
    assert waits.facts() == wanted
    (slowest,) = waits.figures()
    assert (slowest.median, slowest.met) == (6.0, False)
