from pathlib import Path

from llmagentos.storage.layout import Home
from llmagentos.storage.leases import Lease, of_cycles
from tests.erase.planted import PERSON, record, served
from tests.test_cli import one_object, run


def test_a_person_is_erased_and_one_who_is_not_known_is_no_failure(tmp_path: Path):
    root = tmp_path / "home"
    record(Home(root).open(), served(PERSON, "frobnitz", 1), served(PERSON, "frobnitz", 2, tenant="acme"))
    done = run(root, "erase", "--user", PERSON, "--reason", "asked for it", "--json")
    assert (done.returncode, one_object(done)["counts"]["interactions"]) == (0, 1)
    assert PERSON not in done.stdout + done.stderr
    other = run(root, "erase", "--user", PERSON, "--tenant", "acme")
    assert other.returncode == 0
    assert "Erased." in other.stdout
    again = run(root, "erase", "--user", PERSON, "--json")
    assert (again.returncode, one_object(again)["erasure_id"]) == (0, one_object(done)["erasure_id"])
    nobody = run(root, "erase", "--user", "somebody-else", "--json")
    assert (nobody.returncode, one_object(nobody)["message"]) == (0, "Nothing is known of this user.")


def test_what_is_no_user_is_wrong_usage(tmp_path: Path):
    root = tmp_path / "home"
    for arguments in (["--user", " "], ["--user", "u" * 10_000], ["--user", "a", "--reason", "a asked"], []):
        done = run(root, "erase", *arguments, "--json")
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert one_object(done)["error"]["message"]
    assert not root.exists()


def test_while_a_cycle_is_at_work_it_says_what_to_do(tmp_path: Path):
    root = tmp_path / "home"
    home = Home(root).open()
    record(home, served(PERSON, "frobnitz", 1))
    with Lease(home, of_cycles("default"), "elsewhere/1", seconds=1):
        done = run(root, "erase", "--user", PERSON, "--json")
    assert (done.returncode, one_object(done)["error"]["code"]) == (1, "cycle_running")
    assert "run this again" in one_object(done)["error"]["hint"]
    assert one_object(run(root, "status", "--json"))["release"]["erasures_left"] == 1
