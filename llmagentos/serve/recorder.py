"""Recording: an answer is in the spool before its reply completes; a thread moves the spool into Delta meanwhile, and
tidies up there every hour.

Puts run in threads, so the event loop never waits for a disk, and those that arrive together share one fsync.
"""

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from llmagentos.config.sections import StorageConfig
from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage import interactions
from llmagentos.storage.flush import TABLES, flush, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.maintenance import maintain
from llmagentos.storage.spool import Kind, Known

logger = logging.getLogger(__name__)
_THREADS = 16
_TIDY_SECONDS = 3600.0


class Recorder:
    """The spool of one replica and its flusher."""

    def __init__(self, home: Home, storage: StorageConfig) -> None:
        self.home = home
        self.spool = open_spool(home)
        self._storage = storage
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="spool")
        self._unflushed = self.spool.pending()
        self._due = threading.Event()
        self._closed = False
        self._flusher = threading.Thread(target=self._flush_on, name="flusher", daemon=True)
        self._flusher.start()

    async def put(self, records: Sequence[Interaction | Feedback], *, revise: bool = True) -> list[bool]:
        """Durable when it returns; True for each new one. Raises SpoolError, and then nothing was acknowledged."""
        put = functools.partial(self.spool.put, records, revise=revise)
        new = await asyncio.get_running_loop().run_in_executor(self._threads, put)
        self._unflushed += sum(new)
        if self._unflushed >= self._storage.flush_rows:
            self._due.set()
        return new

    async def lookup(self, id: str, kind: Kind = "interaction") -> Known | None:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.spool.lookup, id, kind)

    async def find(self, id: str) -> Interaction | None:
        """The interaction, spooled or flushed."""
        return await asyncio.to_thread(interactions.find, self.home, id, spool=self.spool)

    async def last_of_session(self, tenant: str, session_id: str) -> str | None:
        return await asyncio.to_thread(self.spool.last_of_session, tenant, session_id)

    @property
    def unflushed(self) -> int:
        return self._unflushed

    def close(self) -> None:
        """Flush what there is and stop."""
        self._closed = True
        self._due.set()
        self._flusher.join(timeout=30)
        self._threads.shutdown(wait=True)
        self.spool.close()

    def _flush_on(self) -> None:
        tidied = time.monotonic()
        while not self._closed:
            many = self._due.wait(self._storage.flush_seconds)
            self._due.clear()
            if many and not self._closed:
                self._unflushed = self.spool.pending()
                if self._unflushed < self._storage.flush_rows:  # another replica has flushed them
                    continue
            elif not self._unflushed:
                continue
            try:
                flush(self.home, spool=self.spool, wait=False)
                self._unflushed = self.spool.pending()
                if time.monotonic() - tidied >= _TIDY_SECONDS and not self._closed:
                    tidied = time.monotonic()
                    maintain(self.home, TABLES.values())
            except Exception:  # the thread's edge: what is spooled is safe, and the next turn tries again
                logger.exception("a flush failed; it is tried again in %s s", self._storage.flush_seconds)
