import asyncio

import pytest

from llmagentos.config import Config
from llmagentos.core.errors import CapacityError, ConflictError
from llmagentos.erase import apart
from llmagentos.erase.apart import erase_apart
from llmagentos.storage.leases import Lease, of_cycles
from tests.erase.planted import OTHER, PERSON, new_home, record, served


def test_the_receipt_comes_back_and_a_refusal_is_raised_as_it_is_here(config: Config):
    home = new_home(config)
    record(home, served(PERSON, "frobnitz", 1), served(OTHER, "lamp", 2))
    receipt = asyncio.run(erase_apart(config, PERSON, tenant="default", by="test"))
    assert (receipt["counts"]["interactions"], receipt["by"]) == (1, "test")
    with Lease(home, of_cycles("x"), "elsewhere/1", seconds=1), pytest.raises(ConflictError) as refused:
        asyncio.run(erase_apart(config, OTHER, tenant="default", by="test"))
    assert (refused.value.code, "next cycle" in refused.value.hint) == ("cycle_running", True)


def test_a_process_that_dies_without_a_word_is_told(config: Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(apart.sys, "executable", "/bin/false")
    with pytest.raises(CapacityError, match="interrupted"):
        asyncio.run(erase_apart(config, PERSON, tenant="default", by="test"))
