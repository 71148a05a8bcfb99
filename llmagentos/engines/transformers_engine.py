"""The default engine: transformers' continuous batching in a thread of its own, answers handed to asyncio.

The manager itself is greedy; one logits processor of ours chooses for the requests that ask for more, each with its own
chooser. So one batch holds greedy and sampling requests, and a seed gives the same answer whatever else is running.

Kept cache blocks live in the manager, so in an engine: no other version's weights can be behind them. What bounds a step
of 32 requests on CPU with the seed model is the forward pass, 89 % of it, in many small calls: attention 35 %, matrix
products 18 %; the manager's bookkeeping takes 10 %. By CPU time, answers to prompts that share 256 tokens are 2.3 times
as fast with reuse, and 2.8 times with 11 million weights.
"""

import asyncio
import atexit
import gc
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import InputError, IntegrityError
from llmagentos.core.records import VersionRef
from llmagentos.engines import attention
from llmagentos.engines.chooser import Choices, Chooser
from llmagentos.engines.engine import Chunk, EngineFailedError, Grammar, Sampling, check_bias, renderer_of
from llmagentos.engines.vocabulary import Matcher, vocabulary_of
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STOP_SECONDS = 5.0
_FEW, _HAND_OVER_SECONDS = 4, 0.0003
_PART = 4
"""Of a full step this part is timed, once the weights are loaded."""
_PROBE = [{"role": "user", "content": "Hello 你好 123"}]


def load(ref: VersionRef, config: EngineConfig, dtype: str) -> "TransformersEngine":
    """Load and start an engine. Raises IntegrityError where the weights do not load or answer with NaN, or the tokenizer
    or its template cannot be used."""
    return TransformersEngine(ref, *read(ref, config, dtype), config)


def read(ref: VersionRef, config: EngineConfig, dtype: str) -> tuple[Any, Renderer, float]:
    """What an engine is made of: a manager with weights and cache that does not run yet, the renderer, and the seconds of a
    full step. Raises as `load`."""
    torch.set_num_threads(config.threads)
    _settle()
    model, renderer = load_model(ref.dir, dtype), renderer_of(ref)
    if torch.cuda.is_available():
        model = model.to("cuda")  # type: ignore[arg-type]
    _check_finite(model, renderer, ref)
    step_seconds = _step_seconds(model, config)
    return _manager(model, config), renderer, step_seconds


@lru_cache(maxsize=1)
def _settle() -> None:
    """Let collections pass over what is imported by now. Closing an engine collects all garbage more than once, for which
    0.2 s each the interpreter, and so every answer of the engine that took over, would stand still."""
    gc.collect()
    gc.freeze()


class TransformersEngine:
    """One version's weights and its continuous batch."""

    def __init__(
        self, ref: VersionRef, manager: Any, renderer: Renderer, step_seconds: float, config: EngineConfig,
        *, apart_seconds: float = 0.0,
    ) -> None:  # fmt: skip
        """`apart_seconds` is how far apart parts of a stream are, but for the last."""
        self._apart_seconds = apart_seconds
        self.ref, self.renderer, self.step_seconds = ref, renderer, step_seconds
        self.max_length = min(_positions(manager.model), config.num_blocks * config.page_size)
        self._numbers = itertools.count()
        self._active: dict[str, dict[int, asyncio.Queue[Any]]] = {}
        self._begun: set[str] = set()
        """Requests in the batch. The others wait for their choosers, which no step brings further."""
        self._manager = manager
        _start(manager)

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling: Sampling, *, stream: bool = True
    ) -> AsyncIterator[Chunk]:
        number = next(self._numbers)
        name = f"{request_id}#{number}"
        outputs: asyncio.Queue[Any] = asyncio.Queue()
        self._active.setdefault(request_id, {})[number] = outputs
        self._manager.register_result_handler(name, outputs.put_nowait)
        finished = False
        try:
            chooser = await self._chooser(sampling)
            if self._apart_seconds and not sampling.stop:  # which are looked for in every token
                self._deliveries.keep_apart(name, self._apart_seconds)
            self._add(name, prompt_ids, sampling, chooser, stream or bool(sampling.stop))
            async for chunk in self._chunks(outputs, sampling, chooser):
                finished = chunk.finish_reason not in (None, "cancelled")
                yield chunk
        finally:
            self._forget(request_id, number, name, cancel=not finished)

    def cancel(self, request_id: str) -> None:
        for number, outputs in list(self._active.get(request_id, {}).items()):
            self._manager.cancel_request(f"{request_id}#{number}")
            outputs.put_nowait(None)

    def busy(self) -> int:
        return len(self._begun)

    def steps(self) -> int | None:
        return int(getattr(self._manager, "current_batch", 0))

    def healthy(self) -> bool:
        return bool(self._manager.is_running()) and self._manager.background_thread_status.fatal_error is None

    def close(self, drain: bool = True) -> None:
        if self._manager.is_running():
            self._manager.stop(block=True, hard_stop=not drain)
        # Whoever still holds the engine, or a request's handler, must not hold the weights: another version wants the room.
        self._manager.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    async def _chooser(self, sampling: Sampling) -> Chooser | None:
        """What chooses the tokens; None where the best ones are all that is asked for. Raises InputError."""
        if not Chooser.needed(sampling):
            return None
        check_bias(sampling, self.renderer.vocab_size)
        matcher = await asyncio.to_thread(self._matcher, sampling.grammar) if sampling.grammar else None
        return Chooser(sampling, matcher)

    def _matcher(self, grammar: Grammar) -> Matcher:
        return vocabulary_of(self.renderer).matcher(grammar)

    def _add(self, name: str, prompt_ids: list[int], sampling: Sampling, chooser: Chooser | None, stream: bool) -> None:
        accepted = self._manager.add_request(
            prompt_ids,
            request_id=name,
            max_new_tokens=sampling.max_new_tokens,
            streaming=stream,
            eos_token_id=-1 if sampling.ignore_eos else sorted(self.renderer.stop_ids),
            **({"chooser": chooser} if chooser else {}),
        )
        if accepted is None:
            raise EngineFailedError(f"the engine of version {self.ref.id} takes no more requests.")
        self._begun.add(name)

    async def _chunks(self, outputs: asyncio.Queue[Any], sampling: Sampling, chooser: Chooser | None) -> AsyncIterator[Chunk]:
        scores = chooser.scores if chooser else []
        stop_strings = _StopStrings(self.renderer, sampling.stop)
        sent = 0
        while True:
            output = await outputs.get()
            if output is None:
                yield Chunk([], "cancelled")
                return
            if output.error is not None:
                raise EngineFailedError(f"the engine of version {self.ref.id} failed: {output.error}.")
            if chooser and chooser.failure and sampling.grammar:
                field = sampling.grammar.field
                raise InputError(f"{field}: could not be followed to its end: {chooser.failure}.", field=field)
            ids = output.generated_tokens
            stopped = stop_strings.met(ids)
            if stopped or output.is_finished():
                ended = bool(stopped or (ids and ids[-1] in self.renderer.stop_ids))
                if not output.is_finished():
                    self._manager.cancel_request(output.request_id)
                yield Chunk(ids[sent:], "stop" if ended else "length", tuple(scores[sent : len(ids)]))
                return
            if len(ids) > sent:
                yield Chunk(ids[sent:], None, tuple(scores[sent : len(ids)]))
                sent = len(ids)

    @property
    def _deliveries(self) -> "_Deliveries":
        deliveries: _Deliveries = self._manager.output_router.deliver_batch
        return deliveries

    def _forget(self, request_id: str, number: int, name: str, *, cancel: bool) -> None:
        if cancel:
            self._manager.cancel_request(name)
        self._deliveries.forget(name)
        self._begun.discard(name)
        self._active[request_id].pop(number, None)
        if not self._active[request_id]:
            del self._active[request_id]
        router = self._manager.output_router
        with router._lock:
            router.result_handlers.pop(name, None)


class _StopStrings:
    """Looks for stop strings at the end of an answer that grows."""

    def __init__(self, renderer: Renderer, stop: tuple[str, ...]) -> None:
        self._renderer, self._stop = renderer, stop
        # A token is at least a byte; the rest is for a character that begins further ahead.
        self._window = max((len(s.encode()) for s in stop), default=0) + 16
        self._seen = 0
        self._said: list[int] = []

    def met(self, ids: list[int]) -> bool:
        """Whether an answer, given whole each time, holds one by now."""
        if not self._stop:
            return False
        looked = max(0, len(self._said) - self._window)
        self._said += [i for i in ids[self._seen :] if i not in self._renderer.unsaid_ids]
        self._seen = len(ids)
        text = self._renderer.text(self._said[looked:])
        return any(s in text for s in self._stop)


class _Nobody:
    """Reads what the step under way still says of a request that was forgotten; the manager's own queue would keep it."""

    def put(self, output: object) -> None:
        pass


def _manager(model: "PreTrainedModel", config: EngineConfig) -> Any:
    settings = ContinuousBatchingConfig(
        page_size=config.page_size,
        num_blocks=config.num_blocks,
        max_batch_tokens=config.max_batch_tokens,
        per_request_processors=True,
        allow_block_sharing=config.prefix_reuse,
        use_async_batching=False,
        use_cuda_graph=False,  # the choosers run Python between steps
    )
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=config.max_new_tokens, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    manager = model.init_continuous_batching(greedy, settings)
    manager.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([Choices()]))  # type: ignore[list-item]
    manager.logit_processor.tensors_required = 1
    manager.output_router.output_queue = _Nobody()
    manager.output_router.deliver_batch = _Deliveries(manager.output_router.deliver_batch)
    attention.install(model)
    manager.batch_processor = manager._create_batch_processor()  # here and not by the thread: the cache's pages take longest
    return manager


class _Deliveries:
    """Hands the outputs of each step to the event loop, all at once.

    Of a request that is named here those are left out that come within `seconds` of the last one, but for the end: an output
    holds all tokens so far, and waking whoever passes them on for each of 32 answers costs as much as a part of the step.

    Behind a first token the core is left to whoever passes it on. The thread that generates goes on with the next step at
    once, and where both have one core the event loop would wait for the scheduler's next tick: one first token in eight came
    4 ms late. Where many answers begin at once a step is long anyway.
    """

    def __init__(self, deliver: Callable[[list[Any]], None]) -> None:
        self._deliver = deliver
        self._due: dict[str, list[float]] = {}

    def keep_apart(self, name: str, seconds: float) -> None:
        self._due[name] = [0.0, seconds]

    def forget(self, name: str) -> None:
        self._due.pop(name, None)

    def __call__(self, outputs: list[Any]) -> None:
        now = time.monotonic()
        due = [output for output in outputs if self._is_due(output, now)]
        self._deliver(due)
        if len(due) <= _FEW and any(len(o.generated_tokens) == 1 and not o.is_finished() for o in due):
            time.sleep(_HAND_OVER_SECONDS)

    def _is_due(self, output: Any, now: float) -> bool:
        apart = self._due.get(output.request_id)
        if apart is None or output.is_finished():
            return True
        if now < apart[0]:
            return False
        apart[0] = now + apart[1]
        return True


def _start(manager: Any) -> None:
    # A thread inherits being a daemon: else a process that forgot to close an engine could never end.
    starter = threading.Thread(target=manager.start, daemon=True)
    starter.start()
    starter.join()
    _started.add(manager)


_started: "WeakSet[Any]" = WeakSet()


@atexit.register
def _stop_all() -> None:
    """End the threads of engines that nobody closed: one that is inside torch when Python goes away aborts the process."""
    for manager in list(_started):
        if manager.is_running():
            manager.stop(block=True, timeout=_STOP_SECONDS, hard_stop=True)


def _positions(model: "PreTrainedModel") -> int:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30


def _step_seconds(model: "PreTrainedModel", config: EngineConfig) -> float:
    """Seconds of a step of as many tokens as one may hold, by CPU time: what serves meanwhile takes most of the clock's. A GPU
    is quick, and not timed."""
    if model.device.type != "cpu":
        return 0.0
    tokens = min(config.max_batch_tokens // _PART, _positions(model))
    began = time.process_time()
    with torch.inference_mode():
        model.base_model(input_ids=torch.arange(tokens)[None] % model.config.get_text_config().vocab_size)
    return (time.process_time() - began) / config.threads * config.max_batch_tokens / tokens


def _check_finite(model: "PreTrainedModel", renderer: Renderer, ref: VersionRef) -> None:
    ids = torch.tensor([renderer.prompt(_PROBE)], device=model.device)
    if int(ids.max()) >= model.config.get_text_config().vocab_size:
        raise IntegrityError(f"version {ref.id}: its tokenizer knows ids that its weights do not.")
    with torch.inference_mode():
        finite = bool(torch.isfinite(model(input_ids=ids).logits).all())
    if not finite:
        raise IntegrityError(f"version {ref.id} answers the probe prompt with values that are not finite.")
