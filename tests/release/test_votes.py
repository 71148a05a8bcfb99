import time

import pytest

from llmagentos.core.records import Feedback, Interaction, Stage
from llmagentos.release.votes import votes
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

STAGE = Stage(name="canary", version=2, share=0.5, salt="s", epoch=1, began=time.time() - 60)
NEW = [name for n in range(60) if STAGE.meets(name := f"session-{n}")]
OLD = [name for n in range(60) if not STAGE.meets(name := f"session-{n}")]


def put(home: Home, *records: Interaction | Feedback) -> None:
    spool = open_spool(home)
    spool.put(records)
    spool.close()
    flush(home)


def answer(id: str, session: str | None, version: int, **fields: object) -> Interaction:
    told = {"id": id, "session_id": session, "model_version": version, "created": time.time()}
    return Interaction(**{**told, "messages": [], **fields})


def thumb(about: str, value: bool | None, **fields: object) -> Feedback:
    return Feedback(id=f"f-{about}", interaction_id=about, created=time.time(), name="thumb", value=value, **fields)


def test_a_share_is_met_and_sessions_stay():
    many = [f"s{n}" for n in range(4000)]
    met = {name for name in many if STAGE.meets(name)}
    assert len(met) / len(many) == pytest.approx(0.5, abs=0.03)
    wider = STAGE.model_copy(update={"share": 0.8})
    assert met < {name for name in many if wider.meets(name)}
    other = STAGE.model_copy(update={"salt": "t"})
    assert met != {name for name in many if other.meets(name)}


def test_a_session_is_one_vote_and_the_newest_revision_counts(home: Home):
    put(
        home,
        answer("a", NEW[0], 2),
        answer("b", NEW[0], 2),
        answer("c", OLD[0], 1),
        answer("d", OLD[1], 1),
        answer("e", NEW[1], 2),
    )
    put(home, thumb("a", False), thumb("b", False), thumb("c", True), thumb("d", False), thumb("e", True))
    put(home, thumb("d", True), thumb("e", None, correction={"role": "assistant", "content": "no"}))
    seen = votes(home, STAGE, 1)
    assert (seen[2].liked, seen[2].disliked) == (0, 2)
    assert (seen[1].liked, seen[1].disliked) == (2, 0)


def test_sessions_of_two_tenants_that_are_called_the_same_are_two_votes(home: Home):
    put(home, *(answer(id, NEW[0], 2, tenant=tenant) for id, tenant in (("a", "acme"), ("b", "other"))))
    put(home, thumb("a", False), thumb("b", True))
    seen = votes(home, STAGE, 1)[2]
    assert (seen.liked, seen.disliked) == (1, 1)


def test_who_chose_a_version_or_came_before_has_no_vote(home: Home):
    put(home, answer("old", NEW[0], 2))
    since = STAGE.model_copy(update={"since": Tables(home).last_seq("interactions")})
    chosen = [answer("a", OLD[0], 2), answer("b", NEW[1], 1), answer("c", NEW[2], 7), answer("d", None, 2, stored=False)]
    put(home, *chosen)
    put(home, *(thumb(id, False) for id in ("old", "a", "b", "c", "d")))
    assert sum(one.disliked for one in votes(home, since, 1).values()) == 0


def test_a_vote_counts_whatever_the_clock_says(home: Home):
    put(home, answer("a", NEW[0], 2, created=STAGE.began - 86400), thumb("a", False))
    assert votes(home, STAGE, 1)[2].disliked == 1


def test_nobody_said_anything(home: Home):
    assert [one.liked for one in votes(home, STAGE, 1).values()] == [0, 0]
