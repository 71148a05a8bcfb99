from collections import Counter

import pytest

from llmagentos.benchmark import kills
from llmagentos.benchmark.kills import Case
from llmagentos.config import Config


def test_a_case_tells_what_was_lost_and_what_was_twice():
    case = Case("kill -9 replica", "3 stream under way", acked=["a", "b", "c"], failed=1, recovery_s=2.5)
    line = case.line(Counter(a=1, c=3, d=5))
    wanted = {"fault": "kill -9 replica", "moment": "3 stream under way", "acked": 3, "lost": 1, "duplicated": 2}
    assert line == wanted | {"failed": 1, "broken": 0, "answered_again": 0, "recovery_s": 2.5}


@pytest.mark.slow
@pytest.mark.ray
def test_whoever_is_killed_nobody_is_refused(config: Config):
    found = kills.run(config, kills=3, requests=500)
    assert (found["failed"], found["lost"], found["duplicated"]) == (0, 0, 0), found
    assert found["broken"] == found["answered_again"]
    assert found["acked"] >= 500
    cases = {case["fault"]: case for case in found["cases"]}
    assert cases["SIGSTOP replica"]["noticed_s"] <= 10
    assert cases["SIGSTOP replica"]["recovery_s"] <= 20
    assert cases["kill -9 ingress"]["recovery_s"] <= 6
    assert cases["kill -9 ingress"]["meanwhile"].keys() <= {"ConnectError", "ReadError", "RemoteProtocolError", "503"}
