"""Work that only has to be done before the cycle ends, done while training keeps this process idle."""

import contextlib
import logging
import threading
from collections.abc import Iterator

from llmagentos.config import Config
from llmagentos.config.shown import masked
from llmagentos.registry import tracking

log = logging.getLogger(__name__)


@contextlib.contextmanager
def tracking_warmed_up(config: Config) -> Iterator[None]:
    """Import MLflow and open its store in a thread; it costs seconds, and nothing needs it before the end."""
    if not config.registry.enabled:
        yield
        return
    thread = threading.Thread(target=_warm_up, args=(config,), name="mlflow warm-up", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _warm_up(config: Config) -> None:
    try:
        tracking.warm_up(config)
    except Exception as error:  # noqa: BLE001  the edge of the thread: the sync at the end of the cycle says it aloud
        log.debug("MLflow was not warmed up: %s: %s", type(error).__name__, masked(error))
