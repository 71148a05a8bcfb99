import os
import subprocess
from pathlib import Path

import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import ConfigError
from llmagentos.local import haproxy, ingress
from llmagentos.serve.traffic import INGRESS_REQUEST
from llmagentos.storage.layout import Home


def settings(home: Home, folder: Path, name: str) -> dict[str, str]:
    config = load_config(None, [f"storage.root={home.root}", f"serve.ingress={name}"], environment={})
    return ingress.environment(config, home, folder)


def test_the_default_is_serves_own_proxy_with_quick_checks(home: Home):
    found = settings(home, Path("/tmp/x"), "default")
    assert found == {**ingress.HEALTH, **ingress.WORDS}
    assert found["RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"] == "1"


def test_haproxy_retries_once_and_keeps_its_files_to_itself(home: Home):
    found = settings(home, Path("/tmp/x"), "haproxy")
    assert found["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert (found["RAY_SERVE_HAPROXY_RETRY_ON"], found["RAY_SERVE_HAPROXY_RETRIES"]) == ("conn-failure empty-response", "1")
    places = [found[name] for name in found if name.endswith(("_LOC", "_PATH", "_BASE", "_FILE")) and "BINARY" not in name]
    assert len(places) == 5
    assert all(Path(place).is_relative_to("/tmp/x") for place in places)
    first, last = (int(found[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX"))
    assert last - first == 199
    assert found["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] != found["RAY_SERVE_FALLBACK_PROXY_GRPC_PORT"]


def test_haproxy_waits_longer_than_a_replica(home: Home):
    found = settings(home, Path("/tmp/x"), "haproxy")
    assert {found[f"RAY_SERVE_HAPROXY_TIMEOUT_{side}_S"] for side in ("CLIENT", "SERVER")} == {"630"}


def test_serve_starts_haproxy_by_our_launcher(home: Home):
    launcher = Path(settings(home, Path("/tmp/x"), "haproxy")["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert launcher.stat().st_mode & 0o777 == 0o700
    assert haproxy.__file__ in launcher.read_text()
    done = subprocess.run([launcher, "-v"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("HAProxy version")


def test_a_socket_whose_path_is_too_long_is_named(home: Home):
    with pytest.raises(ConfigError, match="TMPDIR"):
        settings(home, Path("/tmp") / ("x" * 60), "haproxy")


def test_without_haproxy_it_says_what_to_do(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere")
    with pytest.raises(ConfigError, match="/nowhere"):
        ingress.binary()


def test_ingress_and_replica_mean_the_same_header():
    assert haproxy.REQUEST_ID == INGRESS_REQUEST
