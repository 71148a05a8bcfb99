"""Everything but answering: feedback, interactions, versions, releases, models."""

import asyncio
import codecs
import json
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmagentos.config import Config
from llmagentos.core.errors import InputError, NotFoundError
from llmagentos.core.hashing import digest
from llmagentos.core.records import OTHERS, TENANT, Feedback, Interaction, ModelVersion, Release, own_id
from llmagentos.erase.apart import erase_apart
from llmagentos.erase.erase import checked
from llmagentos.registry import released
from llmagentos.registry.versions import Versions
from llmagentos.release.ladder import Ladder
from llmagentos.release.releases import Releases, confirmations, wait_confirmed
from llmagentos.serve import traffic
from llmagentos.serve.errors import ApiError, other_body
from llmagentos.serve.keys import ANYONE
from llmagentos.serve.model import Residents
from llmagentos.serve.recorder import Recorder
from llmagentos.serve.schemas import FeedbackRequest, PromoteRequest, RollbackRequest, model_object, parse
from llmagentos.storage.layout import Home
from llmagentos.storage.spool import content_hash
from llmagentos.storage.tables import Tables

log = logging.getLogger(__name__)
_CONFIRM_SECONDS = 5.0
_ERASE_SECONDS = 30.0
_GOES_ON = "It goes on; ask again for its receipt."
_NEWEST = 20
"""Decisions and releases that the status names."""


class Operations:
    """The routes beside the answers. Each takes the request and its parsed body."""

    def __init__(
        self,
        home: Home,
        config: Config,
        residents: Residents,
        recorder: Recorder,
        announce: Callable[[], Awaitable[None]],
        shared: Callable[[], bool] = lambda: False,
    ) -> None:
        """`announce` serves the newest release and says so; `shared` tells whether there are several tenants."""
        self._home, self._config, self._residents, self._recorder = home, config, residents, recorder
        self._versions, self._releases = Versions(home), Releases(home)
        self._announce, self._shared, self._ladder = announce, shared, Ladder(config)
        self._switching: set[asyncio.Future[bool]] = set()
        self._erasing: dict[tuple[str, str], asyncio.Future[dict[str, Any]]] = {}

    async def feedback(self, request: Request, data: dict[str, Any]) -> Response:
        asked, tenant = parse(FeedbackRequest, data), traffic.tenant()
        about = asked.interaction_id
        if about is None:
            about = await self._recorder.last_of_session(tenant, str(asked.session_id))
            if about is None:
                raise NotFoundError(f"no interaction of session {asked.session_id!r} is known.", field="session_id")
        elif (about := await self._own(about, tenant)) is None:
            raise NotFoundError(f"no interaction {asked.interaction_id!r} is known.", field="interaction_id")
        key = traffic.header(request.headers, "idempotency-key")
        # A key that comes again with another judgement is no revision of the first.
        id = asked.id or f"fb-{_once(request, about, asked.name)}"
        record = Feedback(
            id=_checked_id(id, tenant),
            interaction_id=about,
            created=time.time(),
            name=asked.name,
            value=asked.value,
            correction=asked.correction_message(),
            comment=asked.comment,
            source=asked.source,
            tenant=tenant,
        )
        revise = asked.id is not None or key is None
        if not all(await self._recorder.put([record], revise=revise)) and not revise:
            known = await self._recorder.lookup(record.id, "feedback")
            if known is not None and known.request_hash not in (None, content_hash(record)):
                raise other_body()
        self._about(about)
        return JSONResponse({"object": "feedback", "feedback_id": id, "interaction_id": asked.interaction_id or about})

    async def _own(self, id: str, tenant: str) -> str | None:
        """The stored id of a tenant's interaction, None where it has none that is called so.

        The record is read only where it could be somebody else's.
        """
        if not self._shared():
            return id if await self._recorder.lookup(id) is not None else None
        found = await self._find(id, tenant)
        return found.id if found else None

    async def _find(self, id: str, tenant: str) -> Interaction | None:
        """A tenant's interaction by the id that we gave it, or that the tenant gave a row."""
        for name in dict.fromkeys((id, own_id(id, tenant))):
            found = await self._recorder.find(name)
            if found is not None and found.tenant == tenant:
                return found
        return None

    @staticmethod
    def _about(interaction: str) -> None:
        if visit := traffic.visit():
            visit.interaction = interaction

    async def interaction(self, request: Request) -> Response:
        id = request.path_params["id"]
        found = await self._find(id, traffic.tenant())
        if found is None:
            raise NotFoundError(f"no interaction {id[:100]!r} is known.", field="interaction_id")
        self._about(found.id)
        return JSONResponse({"object": "interaction", **found.model_dump(mode="json"), "id": id})

    async def batch(self, _request: Request, body: bytes) -> Response:
        """NDJSON rows take the road of `llmagentos import`; wrong ones are named and go to quarantine. Where all are
        wrong it is a 422 that also counts them. Raises InputError for a body without a row."""
        if not body.removeprefix(codecs.BOM_UTF8).strip():
            raise InputError('body: holds no row; each line is one: {"messages": [...]}.', field="body")
        counted = await asyncio.to_thread(self._import, body, traffic.tenant())
        if counted["imported"] + counted["duplicates"]:
            return JSONResponse(counted)
        first = counted["errors"][0]
        message = f"no row was taken; line {first['line']}: {first['message']}."
        refused = ApiError(422, message, param=first["field"] or "body", code="no_row_taken")
        return JSONResponse({**refused.body(), **counted}, refused.status)

    def _import(self, body: bytes, tenant: str) -> dict[str, Any]:
        from llmagentos.collect.importing import import_file

        with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
            file.write(body)
            file.flush()
            return import_file(self._config, file.name, tenant=tenant)

    async def versions(self, _request: Request) -> Response:
        every, release = await asyncio.gather(asyncio.to_thread(self._versions.all), asyncio.to_thread(self._releases.current))
        return JSONResponse({"object": "list", "data": [version_object(v, release) for v in every]})

    async def status(self, _request: Request) -> Response:
        """What serves and since when, what is on trial beside it, which replica says so, and the last decisions and
        releases with their reasons."""
        return JSONResponse({"object": "status", "now": time.time(), **await asyncio.to_thread(self._status)})

    def _status(self) -> dict[str, Any]:
        releases = self._releases.all()
        now = releases[-1] if releases else Release()
        moves = [r for i, r in enumerate(releases) if i == 0 or r.champion != releases[i - 1].champion]
        shown = {"epoch", "action", "champion", "student", "by", "reason", "created"}
        return {
            "champion": now.champion,
            "since": moves[-1].created if moves else None,
            "aliases": now.aliases(),
            "stage": self._ladder.outlook(now),
            "replicas": confirmations(self._home),
            "releases": [r.model_dump(include=shown) for r in releases[: -_NEWEST - 1 : -1]],
            "decisions": _decisions(self._home),
        }

    async def version(self, request: Request) -> Response:
        found = await asyncio.to_thread(self._versions.resolve, _name(request))
        release = await asyncio.to_thread(self._releases.current)
        kept = found.model_dump(mode="json", exclude={"dir"})
        return JSONResponse({"object": "version", **kept, **version_object(found, release)})

    async def promote(self, request: Request, data: dict[str, Any]) -> Response:
        asked = parse(PromoteRequest, data)
        found = await asyncio.to_thread(self._versions.resolve, _name(request))
        release = await asyncio.to_thread(
            self._releases.promote,
            found.id,
            student=asked.student,
            by=_by(),
            reason=asked.reason or "promoted over HTTP",
            force=asked.force,
            request=_once(request),
        )
        return await self._released(release)

    async def rollback(self, request: Request, data: dict[str, Any]) -> Response:
        asked = parse(RollbackRequest, data)
        reason = asked.reason or "rolled back over HTTP"
        release = await asyncio.to_thread(self._releases.rollback, by=_by(), reason=reason, request=_once(request))
        return await self._released(release)

    async def _released(self, release: Release) -> Response:
        """200 once this and every other live replica serves it, 202 after five seconds: weights may take longer to load.

        Raises ConflictError where it was taken back by then."""
        until = time.monotonic() + _CONFIRM_SECONDS
        switching = asyncio.ensure_future(self._switch())
        self._switching.add(switching)
        switching.add_done_callback(self._switching.discard)
        await asyncio.wait({switching}, timeout=_CONFIRM_SECONDS)
        left = max(0.0, until - time.monotonic())
        switched = switching.done() and switching.result()
        await asyncio.to_thread(released.check_stands, self._home, release)
        confirmed = switched and await asyncio.to_thread(wait_confirmed, self._home, release, left)
        if not confirmed:
            await asyncio.to_thread(released.check_stands, self._home, release)
        body = {
            "object": "release",
            "epoch": release.epoch,
            "action": release.action,
            "model_version": release.champion,
            "aliases": release.aliases(),
            "confirmed": confirmed,
        }
        return JSONResponse(body, 200 if confirmed else 202)

    async def _switch(self) -> bool:
        """Serve the newest release and say so; false where that failed, as on a full disk: it is committed all the same."""
        try:
            await self._announce()
        except Exception:  # an error would have the client ask again, and go back one version more
            log.exception("what is released could not be announced")
            return False
        return True

    async def erase(self, request: Request) -> Response:
        """The receipt of erasing a person of the key's own tenant; 202 where it takes longer: it goes on, and who asks again is
        told. Raises InputError for what is no user id, ConflictError while a cycle is at work."""
        user, tenant = checked(request.path_params["id"]), traffic.tenant()
        erasing = self._erasing.get((tenant, user))
        if erasing is None:
            erasing = asyncio.ensure_future(erase_apart(self._config, user, tenant=tenant, by=_by()))
            self._erasing[tenant, user] = erasing
            erasing.add_done_callback(partial(self._erased, (tenant, user)))
        await asyncio.wait({erasing}, timeout=_ERASE_SECONDS)
        if not erasing.done():
            return JSONResponse({"object": "erasure", "status": "running", "message": _GOES_ON}, 202)
        return JSONResponse({"object": "erasure", **erasing.result()})

    def _erased(self, whom: tuple[str, str], erasing: asyncio.Future[dict[str, Any]]) -> None:
        self._erasing.pop(whom, None)
        if not erasing.cancelled() and (error := erasing.exception()):
            log.warning("an erasure ended early: %s", error)

    async def models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": await self._model_objects()})

    async def model(self, request: Request) -> Response:
        name = request.path_params["id"]
        for found in await self._model_objects():
            if found["id"] == name:
                return JSONResponse(found)
        raise traffic.unknown_model(name)

    async def _model_objects(self) -> list[dict[str, Any]]:
        agent = self._config.serve.agent_name
        every = {v.id: v for v in await asyncio.to_thread(self._versions.all)}
        aliases = {a: v for a, v in self._residents.release.aliases().items() if a != "challenger" and v in every}
        objects = [model_object(agent, every[aliases["champion"]].created)] if "champion" in aliases else []
        objects += [model_object(f"{agent}@{alias}", every[v].created) for alias, v in aliases.items()]
        release, tenant = self._residents.release, traffic.tenant()
        seen = [v for v in every.values() if v.base is None or release.open_to(v.id, tenant)]
        whole = await asyncio.to_thread(lambda: [v for v in seen if self._versions.has_weights(v.id)])
        return objects + [model_object(f"{agent}@{v.id}", v.created) for v in whole]


def version_object(version: ModelVersion, release: Release) -> dict[str, Any]:
    """A version as CONTRACTS shows it."""
    return {
        "id": version.id,
        "role": version.role,
        "parent": version.parent,
        "status": version.status,
        "aliases": [alias for alias, number in release.aliases().items() if number == version.id],
        "scores": version.scores,
        "created": version.created,
        **({"tainted": True} if version.tainted else {}),
    }


def _decisions(home: Home) -> list[dict[str, Any]]:
    """What became of the newest snapshots, newest first; a decision that was written twice is one."""
    rows = sorted(Tables(home).rows("snapshots"), key=lambda row: row["epoch"], reverse=True)
    once = {(row["id"], row["decision"]): row for row in rows if row["decision"]}
    decided = [(row, json.loads(row["decision"])) for row in once.values()]
    return [
        {
            "snapshot": row["id"],
            "status": row["status"],
            "created": row["created"],
            **{name: said.get(name) for name in ("verdict", "reasons", "cycle", "challenger")},
        }
        for row, said in decided[:_NEWEST]
    ]


def _by() -> str:
    """Who moves a release: the key that asks, where there is one."""
    visit = traffic.visit()
    return "http" if visit is None or visit.key is ANYONE else f"http:{visit.key.name}"


def _once(request: Request, *about: str) -> str:
    """32 characters that are the same where the client's key, or the ingress's id of the request, comes again to this route
    about the same. Raises InputError."""
    tenant, key = traffic.tenant(), traffic.header(request.headers, "idempotency-key")
    return digest([tenant, key, *(about or [request.scope["path"]])], length=32) if key else traffic.once(request.headers, tenant)


def _checked_id(id: str, tenant: str) -> str:
    """A feedback's id as it is stored: what one tenant calls its own is never a revision of another's.

    Raises InputError for an id that only another tenant's can be.
    """
    if tenant == TENANT and id.startswith(OTHERS):
        raise InputError(f"id: may not begin with {OTHERS!r}.", field="id")
    return own_id(id, tenant)


def _name(request: Request) -> str:
    """A version's number or alias. Raises InputError for anything else, ApiError 404 for a number beyond all."""
    name = request.path_params["v"].rpartition("@")[2]  # of "agent@7"
    if name.isascii() and name.isdigit() and len(name) >= 10:
        raise ApiError(404, f"there is no version {name[:20]}.", param="version", code="not_found")
    if not (name.isascii() and name.isalnum()):
        raise InputError(f"{name[:100]!r} names no version: give a number or an alias.", field="version")
    return str(name)
