import socket

import pytest

from llmagentos.core.errors import CapacityError, ConfigError
from llmagentos.local import ports


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_named_with_its_setting(taken):
    assert not ports.is_free(taken)
    with pytest.raises(CapacityError, match=rf"port {taken} of serve.port is taken.*serve.port=0"):
        ports.claim(taken, "serve.port")


@pytest.mark.parametrize("host", ["203.0.113.7", "::1"])
def test_a_host_that_is_not_ours_is_not_called_a_taken_port(host):
    with pytest.raises(ConfigError, match=f"nothing can listen on {host}.*serve.host"):
        ports.claim(12_345, "serve.port", host)


def test_zero_picks_a_free_one():
    assert ports.is_free(ports.claim(0, "serve.port"))


def test_free_ports_differ():
    assert len(set(ports.free_ports(20))) == 20


def test_a_block_is_free_and_passes_over_what_is_taken(monkeypatch):
    monkeypatch.setattr(ports, "_BLOCKS", range(12_000, 12_401))
    first = ports.free_block(200)
    assert first in (12_000, 12_200)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first + 7))
        assert {ports.free_block(200) for _ in range(5)} == {24_200 - first}
