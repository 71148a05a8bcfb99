"""Progress on stderr: a moving line on a terminal, a plain line a step elsewhere."""

import contextlib
import time
from collections.abc import Iterator

from llmagentos.local.show import console


class Progress:
    """`with progress.step("Ray"): ...` says what is going on and how long it took."""

    def __init__(self) -> None:
        self.console = console(stderr=True)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(name):
                yield
        else:
            self.console.print(f"{name} ...", markup=False)
            yield
        self.say(f"{name}: {time.monotonic() - began:.1f} s")

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)
