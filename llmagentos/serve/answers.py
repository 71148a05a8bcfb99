"""Answering: one request from its body to a recorded, complete reply.

Generation runs in a task of its own, so that a client who leaves cannot interrupt the recording. Order is the promise:
pin the version, generate, record durably, and only then send the last chunk. A client who leaves cancels the
generation, unless an Idempotency-Key says that a retry will come for the whole answer.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from llmagentos.agent.turn import Conversation, PlainText, Turn, with_system_prompt
from llmagentos.config import Config
from llmagentos.core.errors import NotFoundError
from llmagentos.core.hashing import digest
from llmagentos.core.messages import Message
from llmagentos.core.records import Interaction
from llmagentos.engines import Engine, Sampling
from llmagentos.serve import traffic
from llmagentos.serve.errors import ApiError, api_error
from llmagentos.serve.metrics import Metrics
from llmagentos.serve.model import Residents
from llmagentos.serve.recorder import Recorder
from llmagentos.serve.schemas import ChatRequest, CompletionRequest, Reply, parse, usage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """One request, understood."""

    id: str
    keyed: bool
    caller: traffic.Caller
    target: str | int
    asked: ChatRequest | CompletionRequest
    source: Conversation | PlainText
    sampling: Sampling
    request_hash: str

    @property
    def chat(self) -> bool:
        return isinstance(self.asked, ChatRequest)


class Answer:
    """One answer under way; `events` gives text as it is certain, then None once it is recorded, or the failure."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.events: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self.version: int | None = None
        self.turn: Turn | None = None
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        if self.question.keyed or self.task is None or self.task.done():
            return
        self.cancelled = True
        if self.turn is None:
            self.task.cancel()
        else:
            self.turn.cancel()


class Answers:
    """All answers of one replica."""

    def __init__(self, config: Config, residents: Residents, recorder: Recorder, metrics: Metrics) -> None:
        self._config, self._residents, self._recorder, self._metrics = config, residents, recorder, metrics
        self._slots = asyncio.Semaphore(config.serve.max_ongoing)
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._keyed: dict[str, Answer] = {}

    async def chat(self, request: Request, data: dict[str, Any]) -> Response:
        asked = parse(ChatRequest, data)
        messages = with_system_prompt(asked.conversation(), self._config.agent)
        source = Conversation(messages, asked.offered_tools())
        return await self._respond(request, data, asked, source, asked.limit)

    async def completion(self, request: Request, data: dict[str, Any]) -> Response:
        asked = parse(CompletionRequest, data)
        return await self._respond(request, data, asked, PlainText(asked.text), asked.max_tokens)

    async def _respond(
        self,
        request: Request,
        data: dict[str, Any],
        asked: ChatRequest | CompletionRequest,
        source: Conversation | PlainText,
        limit: int | None,
    ) -> Response:
        target = traffic.target(asked.model, self._config.serve.agent_name)
        who = traffic.caller(request.headers, asked.metadata or {}, asked.user)
        id, keyed = traffic.interaction_id(request.headers, who.tenant)
        sampling = asked.sampling(self._config.engine, limit)
        question = Question(id, keyed, who, target, asked, source, sampling, digest([request.url.path, data]))
        while keyed:
            if recorded := await self._recorded(question):
                return _replayed(question, recorded)
            if id not in self._keyed:  # nobody began with this key while we looked into the record
                break
        answer = self._begin(question)
        try:
            first = await answer.events.get()
        except asyncio.CancelledError:
            answer.abandon()
            raise
        if isinstance(first, Exception):
            raise first
        return await self._reply(answer, first)

    async def _recorded(self, question: Question) -> Interaction | None:
        """The answer already given under this key. Raises ApiError 409 where the key belongs to another body."""
        while under_way := self._keyed.get(question.id):
            if under_way.question.request_hash != question.request_hash:
                raise _other_body()
            assert under_way.task is not None
            await asyncio.wait({under_way.task})
        known = await self._recorder.lookup(question.id)
        if known is None:
            return None
        if known.request_hash is None:
            raise ApiError(409, "this key's answer was not stored and cannot be repeated.", code="not_replayable")
        if known.request_hash != question.request_hash:
            raise _other_body()
        return await self._recorder.find(question.id)

    def _begin(self, question: Question) -> Answer:
        """Start the answer's task. Raises ApiError 429 when too many wait."""
        most = self._config.serve.max_queued
        if self._slots.locked() and 0 <= most <= self._waiting:
            raise ApiError(429, f"{self._waiting} requests are waiting already.", code="rate_limit_exceeded")
        answer = Answer(question)
        answer.task = asyncio.ensure_future(self._run(answer))
        self._tasks.add(answer.task)
        answer.task.add_done_callback(self._tasks.discard)
        if question.keyed:
            self._keyed[question.id] = answer
        return answer

    async def _run(self, answer: Answer) -> None:
        try:
            self._waiting += 1
            try:
                await self._slots.acquire()
            finally:
                self._waiting -= 1
            try:
                with self._metrics.ongoing.track_inprogress():
                    await self._generate(answer)
            finally:
                self._slots.release()
            answer.events.put_nowait(None)
        except Exception as error:  # noqa: BLE001  the task's edge: handed to whoever waits for the answer
            if not isinstance(error, ApiError) and api_error(error).status == 500:
                logger.exception("answer %s failed", answer.question.id)
            answer.events.put_nowait(error)
        finally:
            if answer.question.keyed:
                self._keyed.pop(answer.question.id, None)

    async def _generate(self, answer: Answer) -> None:
        began, created = time.perf_counter(), time.time()
        try:
            async with self._residents.pin(answer.question.target) as engine:
                await self._turn(answer, engine)
        except NotFoundError:
            raise traffic.unknown_model(str(answer.question.asked.model)) from None
        seconds = time.perf_counter() - began
        turn = answer.turn
        assert turn is not None
        record = _interaction(answer, turn, created, seconds * 1000)
        if not (await self._recorder.put([record]))[0]:
            raise ApiError(409, f"{record.id} was answered at the same time elsewhere; ask again.", code="in_progress")
        self._metrics.seconds.observe(seconds)
        self._metrics.tokens.labels("prompt").inc(len(turn.prompt_ids))
        self._metrics.tokens.labels("answer").inc(len(turn.answer_ids))
        self._metrics.answers.labels(str(answer.version), turn.finish_reason).inc()

    async def _turn(self, answer: Answer, engine: Engine) -> None:
        question = answer.question
        turn = Turn(engine, question.id, question.source, question.sampling, self._config.model.max_length)
        answer.version = engine.ref.id
        answer.turn = turn
        async for piece in turn.pieces(stream=bool(question.asked.stream)):
            answer.events.put_nowait(piece.text)

    async def _reply(self, answer: Answer, first: str | None) -> Response:
        question = answer.question
        assert answer.version is not None
        headers = _headers(question, answer.version)
        reply = Reply(question.id, str(question.asked.model), answer.version, chat=question.chat)
        if question.asked.stream:
            return StreamingResponse(_stream(answer, reply, first), headers=headers, media_type="text/event-stream")
        event = first
        try:
            while event is not None:
                event = await answer.events.get()
                if isinstance(event, Exception):
                    raise event
        except asyncio.CancelledError:
            answer.abandon()
            raise
        turn = answer.turn
        assert turn is not None
        used = usage(turn.prompt_ids, turn.answer_ids)
        return JSONResponse(reply.whole(turn.message, turn.finish_reason, used), headers=headers)

    async def close(self) -> None:
        """Let what is under way end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=30)


async def _stream(answer: Answer, reply: Reply, event: str | Exception | None) -> AsyncIterator[bytes]:
    try:
        yield _sse(reply.first())
        while event is not None and not isinstance(event, Exception):
            texts = [event]
            event = await answer.events.get()
            while isinstance(event, str) and not answer.events.empty():  # what piled up goes out as one chunk
                texts.append(event)
                event = answer.events.get_nowait()
            yield _sse(reply.text("".join(texts)))
        if isinstance(event, Exception):
            yield _sse(api_error(event).body())
            return
        turn = answer.turn
        assert turn is not None
        used = usage(turn.prompt_ids, turn.answer_ids)
        yield _ending(reply, turn.message, turn.finish_reason, used, answer.question.asked.wants_usage)
    finally:
        answer.abandon()


def _replayed(question: Question, recorded: Interaction) -> Response:
    version = recorded.model_version or 0
    message, reason = recorded.messages[-1], recorded.finish_reason or "stop"
    used = usage(recorded.prompt_ids or [], recorded.answer_ids or [])
    reply = Reply(recorded.id, str(question.asked.model), version, chat=question.chat)
    headers = _headers(question, version) | {"x-replayed": "true"}
    if not question.asked.stream:
        return JSONResponse(reply.whole(message, reason, used), headers=headers)

    async def chunks() -> AsyncIterator[bytes]:
        yield _sse(reply.first())
        if message.get("content"):
            yield _sse(reply.text(message["content"]))
        yield _ending(reply, message, reason, used, question.asked.wants_usage)

    return StreamingResponse(chunks(), headers=headers, media_type="text/event-stream")


def _ending(reply: Reply, message: Message, reason: str, used: dict[str, int], wants_usage: bool) -> bytes:
    calls = message.get("tool_calls")
    parts = [reply.tool_calls(calls)] if calls else []
    parts.append(reply.last(reason))
    if wants_usage:
        parts.append(reply.used(used))
    return b"".join(_sse(part) for part in parts) + b"data: [DONE]\n\n"


def _sse(chunk: dict[str, Any] | None) -> bytes:
    if chunk is None:
        return b""
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _headers(question: Question, version: int) -> dict[str, str]:
    session = question.caller.session_id
    plain = {"x-session-id": session} if session.isascii() and session.isprintable() else {}
    return {"x-interaction-id": question.id, "x-model-version": str(version), **plain}


def _interaction(answer: Answer, turn: Turn, created: float, latency_ms: float) -> Interaction:
    question = answer.question
    base = {
        "id": question.id,
        "created": created,
        "model_version": answer.version,
        "tenant": question.caller.tenant,
        "finish_reason": turn.finish_reason,
        "latency_ms": round(latency_ms, 3),
    }
    if question.asked.store is False:
        return Interaction(**base, messages=[], stored=False)
    metadata = question.asked.metadata or {}
    if isinstance(question.source, Conversation):
        messages, tools = question.source.messages, question.source.tools
    else:
        messages, tools = [{"role": "user", "content": question.source.text}], None
    return Interaction(
        **base,
        session_id=question.caller.session_id,
        user_id=question.caller.user_id,
        scenario=metadata.get("scenario"),
        skill=metadata.get("skill"),
        key=metadata.get("key"),
        messages=[*messages, turn.message],
        tools=tools,
        prompt_ids=turn.prompt_ids,
        answer_ids=turn.answer_ids,
        renderer=turn.engine.renderer.hash,
        request_hash=question.request_hash,
    )


def _other_body() -> ApiError:
    return ApiError(409, "this Idempotency-Key was used with another body.", code="idempotency_conflict", param="Idempotency-Key")
