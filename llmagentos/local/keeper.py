"""Whoever stays beside what `up` started: what ends by itself is started again.

The head of Ray is a single point: with its control store everything goes that runs on it. Nothing acknowledged is lost then, and
all the rest is found again at a start: so one is made, within seconds. MLflow is started again alone; nothing waits for it.
"""

import contextlib
import fcntl
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from urllib.parse import urlsplit

from llmagentos.config import Config
from llmagentos.core.errors import CapacityError, LLMAgentOSError
from llmagentos.local import down, processes, up
from llmagentos.local.processes import Processes
from llmagentos.local.progress import Progress
from llmagentos.storage.layout import Home

_LOOK_SECONDS = 1.0
_MOST, _WITHIN_SECONDS = 3, 600.0
"""Starts of one process within such a time, behind which it is left alone: it would end again."""
_REST_SECONDS = 5.0
"""Between two attempts at one start."""


def watch(config: Config) -> None:
    """Keep it all up until Ctrl-C or SIGTERM, then end everything. Raises CapacityError where Ray ended by itself too often."""
    progress, asked = Progress(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    progress.say("Ctrl-C ends it.")
    with _only(Home(config.storage.root)) as alone:
        keep(config, asked, progress, mends=alone)
    if asked.is_set():
        with progress.step("Going down"):
            down.down(config)


def leave(config: Config) -> None:
    """Leave one in the background, which ends with what it watches. A second one ends at once."""
    home = Home(config.storage.root)
    command = [sys.executable, "-m", "llmagentos.local.keeper"]
    keeper = up.spawn(home, "keeper", command, up.environment(home, config), stdin=subprocess.PIPE)
    if keeper.stdin:
        with keeper.stdin:
            keeper.stdin.write(config.model_dump_json().encode())


def keep(config: Config, asked: threading.Event, progress: Progress, *, mends: bool = True) -> None:
    """Start again what ended by itself, if it `mends`, until `asked` to go or until `down` was called.

    Raises CapacityError where Ray ended too often, or could not be started again: then everything is down.
    """
    home = Home(config.storage.root)
    starts: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_MOST))
    while not asked.wait(_LOOK_SECONDS):
        known = processes.read(home)
        if known is None or not known.ready:
            return
        dead = {one.name for one in known.processes if not processes.is_alive(one)}
        # Who calls `down` says so before anything ends.
        if mends and dead and (now := processes.read(home)) and now.ready:
            _mend(_where_it_was(config, known), home, dead, starts, progress)


def _mend(config: Config, home: Home, dead: set[str], starts: dict[str, deque[float]], progress: Progress) -> None:
    name = "ray" if "ray" in dead else min(dead)
    before = starts[name]
    if len(before) == _MOST and time.monotonic() - before[0] < _WITHIN_SECONDS:
        if name != "ray":
            return
        down.down(config)
        raise CapacityError(f"ray ended by itself {_MOST + 1} times.", hint=f"See {home.local / 'logs'}.")
    before.append(time.monotonic())
    progress.say(f"{name} ended by itself and is started again.")
    if name == "ray":
        _start(config, progress)
    else:
        up.again(config, name)


def _start(config: Config, progress: Progress) -> None:
    """What is left of the dead may still hold a port for a moment."""
    for left in reversed(range(_MOST)):
        try:
            up.up(config)
            return
        except CapacityError as error:
            if not left:
                raise
            progress.say(str(error))
            time.sleep(_REST_SECONDS)


def _where_it_was(config: Config, known: Processes) -> Config:
    """The configuration with the ports that were found, where it left them open: addresses were told."""
    ports = {name: urlsplit(address).port for name, address in known.addresses.items() if "://" in address}
    serve = config.serve.model_copy(update={"port": ports.get("endpoint") or config.serve.port})
    registry = config.registry.model_copy(update={"port": ports.get("mlflow") or config.registry.port})
    local = config.local.model_copy(update={"dashboard_port": ports.get("dashboard") or config.local.dashboard_port})
    return config.model_copy(update={"serve": serve, "registry": registry, "local": local})


@contextlib.contextmanager
def _only(home: Home) -> Iterator[bool]:
    """Whether nobody else keeps this home."""
    home.local.mkdir(parents=True, exist_ok=True)
    with (home.local / "keeper.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def main() -> None:
    """With the configuration as JSON on stdin."""
    config = Config.model_validate_json(sys.stdin.read())
    progress = Progress()
    with _only(Home(config.storage.root)) as alone:
        try:
            if alone:
                keep(config, threading.Event(), progress)
        except LLMAgentOSError as error:
            progress.say(str(error))
            sys.exit(1)


if __name__ == "__main__":
    main()
