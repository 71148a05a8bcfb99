"""Work that only has to be done before the cycle ends, done while training keeps this process idle."""

import contextlib
import threading
from collections.abc import Iterator

from llmagentos.config import Config
from llmagentos.registry import tracking


@contextlib.contextmanager
def tracking_warmed_up(config: Config) -> Iterator[None]:
    """Import MLflow and open its store in a thread; it costs seconds, and nothing needs it before the end."""
    if not config.registry.enabled:
        yield
        return
    thread = threading.Thread(target=tracking.warm_up, args=(config,), name="mlflow warm-up", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
