"""Answering: one request from its body to a recorded, complete reply.

Generation runs in a task of its own, so that a client who leaves cannot interrupt the recording. Order is the promise:
pin the version, generate every choice, record them durably, and only then send the last chunk. A client who leaves cancels the
generation, unless an Idempotency-Key says that a retry will come for the whole answer.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmagentos.agent.turn import Conversation, PlainText, Turn, with_system_prompt
from llmagentos.config import Config
from llmagentos.core.errors import NotFoundError
from llmagentos.core.records import Interaction
from llmagentos.engines import Engine
from llmagentos.engines.engine import EngineFailedError
from llmagentos.serve import traffic
from llmagentos.serve.canary import Routed, Trial
from llmagentos.serve.claims import Claims
from llmagentos.serve.errors import ApiError, api_error, other_body, other_version
from llmagentos.serve.limits import answering
from llmagentos.serve.metrics import Metrics
from llmagentos.serve.model import Residents
from llmagentos.serve.question import Question
from llmagentos.serve.quota import Quotas
from llmagentos.serve.recorder import Recorder
from llmagentos.serve.replies import Choice, Reply, choice_id, sse, usage
from llmagentos.serve.schemas import ChatRequest, CompletionRequest, parse
from llmagentos.serve.stream import EventStream, Said, parts

logger = logging.getLogger(__name__)
_CLAIMED_SECONDS = 0.05
"""How often to look whether another replica has answered."""
_LARGE = 20_000
"""Size of a prompt that is rendered in a thread."""


class Answer:
    """One answer under way; `events` gives text as it is certain, then None once it is recorded, or the failure."""

    def __init__(self, question: Question) -> None:
        self.question, self.created = question, time.time()
        self.events: asyncio.Queue[Said | Exception | None] = asyncio.Queue()
        self.version: int | None = None
        self.turns: list[Turn] = []
        """One a choice."""
        self.task: asyncio.Task[None] | None = None
        self.recorded: list[Interaction] | None = None
        """What another replica recorded under its id, which is what is answered then."""
        self.again: int | None = None
        """The version that answered under its id before, of which no more was kept: it is to do so again."""
        self.begun = self.heard = False
        """A stream, and its first byte was sent; words of it are on their way."""

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        if self.question.keyed or self.task is None or self.task.done():
            return
        for turn in self.turns:
            turn.cancel()
        if not self.turns:
            self.task.cancel()

    def choices(self) -> list[Choice]:
        """The finished choices."""
        told = self.question.sampling.logprobs is not None
        return [Choice(k, turn.message, turn.finish_reason, turn.tokens if told else None) for k, turn in enumerate(self.turns)]

    def used(self) -> dict[str, int]:
        return usage(self.turns[0].prompt_ids, [turn.answer_ids for turn in self.turns])


class Answers:
    """All answers of one replica."""

    def __init__(
        self, config: Config, residents: Residents, recorder: Recorder, metrics: Metrics, quotas: Quotas, trial: Trial
    ) -> None:
        self._config, self._residents, self._recorder, self._metrics = config, residents, recorder, metrics
        self._quotas, self._trial = quotas, trial
        self._slots = asyncio.Semaphore(config.serve.max_ongoing)
        self._under_way = 0  # choices, for each is work of its own
        self._answers: set[Answer] = set()
        self._keyed: dict[str, Answer] = {}
        self._claims = Claims(recorder.home)

    async def chat(self, request: Request, data: dict[str, Any]) -> Response:
        asked = parse(ChatRequest, data)
        messages = with_system_prompt(asked.conversation(), self._config.agent)
        source = Conversation(messages, asked.offered_tools(), asked.form())
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
        who = traffic.caller(request.headers, asked.metadata or {}, asked.user)
        agent = self._config.serve.agent_name
        target, free = traffic.target(asked.model, agent), asked.model == agent
        id, key = traffic.interaction_id(request.headers, who.tenant)
        sampling = asked.sampling(self._config.engine, limit)
        question = Question(id, key, who, target, free, asked, source, sampling, [request.scope["path"], data])
        while question.keyed:
            if recorded := await self._recorded(question):
                return _replayed(question, recorded)
            if id in self._keyed:  # somebody began with this key while we looked into the record
                continue
            if self._claims.take(id):
                break
            await asyncio.sleep(_CLAIMED_SECONDS)  # another replica answers it, or died and its claim is free at once
        answer = self._begin(question)
        try:
            first = await answer.events.get()
        except asyncio.CancelledError:
            answer.abandon()
            raise
        if isinstance(first, Exception):
            raise first
        return await self._reply(answer, first)

    async def _recorded(self, question: Question) -> list[Interaction] | None:
        """The choices already given under this key. Raises ApiError 409 where the key belongs to another body."""
        while under_way := self._keyed.get(question.id):
            if under_way.question.request_hash != question.request_hash:
                raise other_body()
            assert under_way.task is not None
            await asyncio.wait({under_way.task})
        return await self._known(question)

    async def _known(self, question: Question) -> list[Interaction] | None:
        """The record of this id; None for one without words, whose question is answered anew. Raises ApiError 409 where it
        belongs to another body."""
        known = await self._recorder.lookup(question.id)
        if known is None:
            return None
        if known.request_hash != question.request_hash:
            raise other_body()
        if question.asked.store is False:
            return None
        found = [await self._recorder.find(choice_id(question.id, k)) for k in range(question.asked.choices)]
        return [choice for choice in found if choice is not None] if all(found) else None

    def _begin(self, question: Question) -> Answer:
        """Start the answer's task. Raises ApiError 429 when too many wait, or the key's tokens of the day are used up."""
        try:
            self._enter()
        except ApiError:
            self._claims.release(question.id)
            raise
        answer = Answer(question)
        self._under_way += question.asked.choices
        answer.task = asyncio.ensure_future(self._run(answer))
        answer.task.add_done_callback(lambda _: self._end(answer))
        self._answers.add(answer)
        if question.keyed:
            self._keyed[question.id] = answer
        return answer

    def _enter(self) -> None:
        visit = traffic.visit()
        if visit is not None:
            self._quotas.check(visit.key)
        most, waiting = self._config.serve.max_queued, self._under_way - self._config.serve.max_ongoing
        if 0 <= most <= waiting:
            raise ApiError(429, f"{waiting} answers are waiting already.", code="rate_limit_exceeded")
        if visit is not None:
            self._metrics.enter_queue(visit)

    def _end(self, answer: Answer) -> None:
        """The task is over; also one that was cancelled before its first step."""
        assert answer.task is not None
        self._under_way -= answer.question.asked.choices
        self._answers.discard(answer)
        if answer.question.keyed:
            self._keyed.pop(answer.question.id, None)
            self._claims.release(answer.question.id)

    async def _run(self, answer: Answer) -> None:
        try:
            if answer.question.keyed:  # once more, now that nobody else can begin with it
                answer.recorded = await self._known(answer.question)
                if answer.question.asked.store is False and (before := await self._recorder.find(answer.question.id)):
                    answer.again = before.model_version
            if answer.recorded is None:
                async with answering(self._config.serve.request_seconds), self._slots:
                    with self._metrics.ongoing.track_inprogress():
                        await self._generate(answer)
            answer.events.put_nowait(None)
        except Exception as error:  # noqa: BLE001  the task's edge: handed to whoever waits for the answer
            if isinstance(error, OSError) or (not isinstance(error, ApiError) and api_error(error).status == 500):
                logger.exception("answer %s failed", answer.question.id)
            answer.events.put_nowait(error)

    async def _generate(self, answer: Answer) -> None:
        began = time.perf_counter()
        try:
            routed = await self._spoken(answer) or await self._spoken(answer, last=True)
        except NotFoundError:
            if answer.again is not None:
                raise other_version(answer.again) from None
            raise traffic.unknown_model(str(answer.question.asked.model)) from None
        seconds = time.perf_counter() - began
        records = [_interaction(answer, k, turn, seconds * 1000) for k, turn in enumerate(answer.turns)]
        # The first choice is recorded last: what a session said last is what its reply is named after.
        if not all(await self._recorder.put(records[::-1])):
            await self._answered_elsewhere(answer)
        self._measure(answer, seconds)
        assert routed is not None
        self._trial.answered(routed, answer.turns, seconds)

    async def _spoken(self, answer: Answer, *, last: bool = False) -> Routed | None:
        """Speak under one engine; None where it died before anybody heard a word, so that its successor may."""
        routed = answer.question.routed(self._residents.release, answer.again)
        target = self._trial.target(routed)
        if not answer.question.free:
            await self._residents.check_open(target, answer.question.caller.tenant)
        async with self._residents.pin(target) as engine:
            try:
                with self._trial.watched(engine, routed, again=answer.version == engine.ref.id):
                    await self._turns(answer, engine)
            except EngineFailedError:
                if last or answer.heard or engine.healthy():
                    raise
                return None
        return routed

    async def _answered_elsewhere(self, answer: Answer) -> None:
        """The record is an earlier one. Raises ApiError 409 where a stream began otherwise, or it belongs to another body."""
        answer.recorded = await self._known(answer.question)
        if answer.question.asked.store is False:
            return  # the record holds no words that could differ
        said = [(answer.version, turn.message) for turn in answer.turns]
        same = said == [(one.model_version, one.messages[-1]) for one in answer.recorded or []]
        if answer.recorded is None or (answer.begun and not same):
            raise ApiError(409, f"{answer.question.id} was answered at the same time elsewhere; ask again.", code="in_progress")

    def _measure(self, answer: Answer, seconds: float) -> None:
        used, version = answer.used(), str(answer.version)
        self._metrics.seconds.observe(seconds)
        self._metrics.tokens.labels("prompt", version).inc(used["prompt_tokens"])
        self._metrics.tokens.labels("answer", version).inc(used["completion_tokens"])
        for turn in answer.turns:
            self._metrics.answers.labels(version, turn.finish_reason).inc()

    async def _turns(self, answer: Answer, engine: Engine) -> None:
        """Speak all choices at once, to their end. One that fails ends the others."""
        question, longest = answer.question, self._config.model.max_length
        answer.version = engine.ref.id
        if question.source.size > _LARGE:  # rendering may take seconds, and meanwhile the others go on
            answer.turns = await asyncio.to_thread(_all_turns, question, engine, longest)
        else:
            answer.turns = _all_turns(question, engine, longest)
        if len(answer.turns) == 1:
            return await _listen(answer, 0)
        try:
            async with asyncio.TaskGroup() as group:
                for k in range(len(answer.turns)):
                    group.create_task(_listen(answer, k))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _reply(self, answer: Answer, first: Said | Exception | None) -> Response:
        question = answer.question
        if question.asked.stream and answer.recorded is None:
            answer.begun = True
            reply, headers = _opened(answer)
            return EventStream(_stream(answer, reply, first), headers=headers)
        try:
            while first is not None:
                first = await answer.events.get()
                if isinstance(first, Exception):
                    raise first
        except asyncio.CancelledError:
            answer.abandon()
            raise
        if answer.recorded is not None:
            return _replayed(question, answer.recorded)
        reply, headers = _opened(answer)  # only now: its engine may have died behind some words, and another spoken them all
        return JSONResponse(reply.whole(answer.choices(), answer.used()), headers=headers)

    def give_up(self, versions: Sequence[int]) -> None:
        """End what hanging engines will not: a stream that began with an error event, the others with 503.

        Behind an ingress that puts requests to another replica the others are left to it.
        """
        for answer in [a for a in self._answers if a.version in versions and a.task is not None and not a.task.done()]:
            if answer.begun or self._config.serve.ingress == "default":
                answer.events.put_nowait(EngineFailedError(f"the engine of version {answer.version} hangs."))
                answer.task.cancel()

    async def close(self) -> None:
        """Let what is under way end."""
        if self._answers:
            await asyncio.wait([a.task for a in self._answers if a.task is not None], timeout=self._config.serve.drain_seconds)
        self._claims.close()


def _all_turns(question: Question, engine: Engine, longest: int) -> list[Turn]:
    """A turn for each choice; the prompt is rendered once. Raises InputError."""
    turns: list[Turn] = []
    for k in range(question.asked.choices):
        prompt = turns[0].prompt_ids if turns else None
        turns.append(Turn(engine, choice_id(question.id, k), question.source, question.drawn.of_choice(k), longest, prompt))
    return turns


async def _listen(answer: Answer, index: int) -> None:
    streams = bool(answer.question.asked.stream)
    async for piece in answer.turns[index].pieces(stream=streams):
        answer.heard = streams
        answer.events.put_nowait(Said(index, piece))


async def _stream(answer: Answer, reply: Reply, first: Said | Exception | None) -> AsyncIterator[bytes]:
    question = answer.question

    def ending() -> bytes:
        return reply.ending(answer.choices(), answer.used())

    told = question.sampling.logprobs is not None
    try:
        async for part in parts(answer.events, first, reply, len(answer.turns), told=told, ending=ending):
            yield part
    finally:
        answer.abandon()


def _replayed(question: Question, recorded: list[Interaction]) -> Response:
    """The recorded choices again. Log-probabilities are not recorded, so a replay has none."""
    version = recorded[0].model_version or 0
    choices = [Choice(k, one.messages[-1], one.finish_reason or "stop") for k, one in enumerate(recorded)]
    used = usage(recorded[0].prompt_ids or [], [one.answer_ids or [] for one in recorded])
    reply = question.reply(version, recorded[0].created)
    headers = question.headers(version, recorded[0].session_id or question.caller.session_id) | {"x-replayed": "true"}
    if not question.asked.stream:
        return JSONResponse(reply.whole(choices, used), headers=headers)

    async def chunks() -> AsyncIterator[bytes]:
        for choice in choices:
            yield sse(reply.first(choice.index))
            if choice.message.get("content"):
                yield sse(reply.text(choice.index, choice.message["content"]))
        yield reply.ending(choices, used)

    return EventStream(chunks(), headers=headers)


def _opened(answer: Answer) -> tuple[Reply, dict[str, str]]:
    """The reply of the version that answers, and its headers."""
    question, version = answer.question, answer.version
    assert version is not None
    return question.reply(version, answer.created), question.headers(version, question.caller.session_id)


def _interaction(answer: Answer, index: int, turn: Turn, latency_ms: float) -> Interaction:
    question = answer.question
    base = {
        "id": choice_id(question.id, index),
        "created": answer.created,
        "model_version": answer.version,
        "tenant": question.caller.tenant,
        "session_id": question.caller.session_id,
        "finish_reason": turn.finish_reason,
        "latency_ms": round(latency_ms, 3),
    }
    if question.asked.store is False:
        return Interaction(**base, messages=[], stored=False, request_hash=question.request_hash)
    metadata = question.asked.metadata or {}
    if isinstance(question.source, Conversation):
        messages, tools = question.source.messages, question.source.tools
    else:
        messages, tools = [{"role": "user", "content": question.source.text}], None
    return Interaction(
        **base,
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
