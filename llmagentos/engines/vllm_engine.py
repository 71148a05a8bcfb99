"""vLLM behind the same protocol, for GPUs; an optional extra, whose CPU build runs it for trying out.

Only what the protocol needs: ids in, ids out. Rendering, stop ids and parsing stay ours, so that the ids an answer was
served with are the ids it is trained on. Grammars go to vLLM's own llguidance, which reads the same language.
"""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import ConfigError, InputError
from llmagentos.core.records import VersionRef
from llmagentos.engines.engine import Chunk, EngineFailedError, Sampling, TokenScore, check_bias, renderer_of
from llmagentos.engines.footprint import cache_bytes, footprint, max_positions
from llmagentos.engines.vocabulary import vocabulary_of

_CPU_CACHE = 1 << 30
"""Bytes for keys and values on CPU, where VLLM_CPU_KVCACHE_SPACE does not say."""
_PROBE_SECONDS = 1.0
_SMALLEST_NUCLEUS = 1e-9
"""vLLM takes no 0, which asks for the likeliest token."""


def load(ref: VersionRef, config: EngineConfig, dtype: str) -> "VllmEngine":
    """Start vLLM on a version, in a process of its own. Raises ConfigError when it is not installed."""
    try:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise ConfigError(
            f"engine.name=vllm, but vLLM cannot be imported ({error}).",
            hint="Add it with cluster/install_vllm.sh, or set engine.name=transformers.",
        ) from None
    arguments = AsyncEngineArgs(
        model=ref.dir,
        dtype=dtype,
        block_size=config.page_size,
        enable_prefix_caching=config.prefix_reuse,
        structured_outputs_config={"backend": "guidance"},
        enable_log_requests=False,
        disable_log_stats=True,
        trust_remote_code=False,
        **(_on_gpu(ref, config, dtype) if torch.cuda.is_available() else _on_cpu(config)),
    )
    return VllmEngine(ref, AsyncLLM.from_engine_args(arguments))


def _on_gpu(ref: VersionRef, config: EngineConfig, dtype: str) -> dict[str, Any]:
    """What the version needs and no more: vLLM would take most of the GPU, and the next version could not be loaded beside
    it. Nothing for a model that does not say how large its cache is."""
    folder = Path(ref.dir)
    cache = cache_bytes(folder, config, dtype)
    if not cache:
        return {}
    # Beside a given size of the cache this share is only held against the free memory at the start.
    share = footprint(folder, config, dtype) / torch.cuda.get_device_properties(0).total_memory
    room = config.num_blocks * config.page_size
    return {
        "kv_cache_memory_bytes": cache,
        "gpu_memory_utilization": min(0.95, share),
        "max_model_len": min(max_positions(folder) or room, room),
    }


def _on_cpu(config: EngineConfig) -> dict[str, Any]:
    """What vLLM's CPU build needs to share a machine: bounded memory, and threads that no core is reserved for, since
    two versions side by side would be put on the same ones."""
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("OMP_NUM_THREADS", str(config.threads))
    return {"kv_cache_memory_bytes": _CPU_CACHE, "enforce_eager": True}


class VllmEngine:
    """One version's weights in a vLLM engine. It belongs to the event loop that first generates with it."""

    step_seconds = 0.0

    def __init__(self, ref: VersionRef, engine: Any) -> None:
        self.ref = ref
        self.renderer = renderer_of(ref)
        self.max_length = int(engine.model_config.max_model_len)
        self.bare = engine
        """vLLM's own, for whoever compares."""
        self._active: Counter[str] = Counter()
        self._cancelled: set[str] = set()
        self._aborts: set[asyncio.Task[None]] = set()
        self._probed = 0
        self._prober: asyncio.Task[None] | None = None

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling: Sampling, *, stream: bool = True
    ) -> AsyncIterator[Chunk]:
        from vllm.exceptions import VLLMClientError, VLLMError

        self._active[request_id] += 1
        if self._prober is None or self._prober.done():
            self._prober = asyncio.create_task(self._probe())
        try:
            parameters = await self._parameters(sampling, stream)
            outputs = self.bare.generate({"prompt_token_ids": prompt_ids}, parameters, request_id)
            async with contextlib.aclosing(outputs):  # who leaves early ends the request at once
                async for output in outputs:
                    answer = output.outputs[0]
                    if request_id in self._cancelled or answer.finish_reason == "abort":
                        yield Chunk([], "cancelled")
                        return
                    ids = list(answer.token_ids)
                    yield Chunk(ids, answer.finish_reason, _scores(ids, answer.logprobs, sampling.logprobs or 0))
        except (VLLMError, RuntimeError, ValueError) as error:
            if sampling.grammar and isinstance(error, VLLMClientError):
                field = sampling.grammar.field
                raise InputError(f"{field}: vLLM cannot follow it: {error}.", field=field) from error
            raise EngineFailedError(f"vLLM failed on version {self.ref.id}: {error.__cause__ or error}.") from error
        finally:
            self._active[request_id] -= 1
            if not self._active[request_id]:
                del self._active[request_id]
                self._cancelled.discard(request_id)

    async def _parameters(self, sampling: Sampling, stream: bool) -> Any:
        """vLLM's own words for a sampling. Raises InputError."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        check_bias(sampling, self.renderer.vocab_size)
        if sampling.grammar:  # compiled here first: an error then names the field that asked for it
            await asyncio.to_thread(vocabulary_of(self.renderer).matcher, sampling.grammar)
        return SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=max(sampling.top_p, _SMALLEST_NUCLEUS),
            seed=None if sampling.seed is None else sampling.seed % (1 << 63),
            stop=list(sampling.stop),
            stop_token_ids=[] if sampling.ignore_eos else sorted(self.renderer.stop_ids),
            ignore_eos=sampling.ignore_eos,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            logprobs=sampling.logprobs,
            structured_outputs=StructuredOutputsParams(grammar=sampling.grammar.text) if sampling.grammar else None,
            output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        )

    def cancel(self, request_id: str) -> None:
        if request_id in self._active:
            self._cancelled.add(request_id)
            task = asyncio.ensure_future(self.bare.abort(request_id))
            self._aborts.add(task)
            task.add_done_callback(self._aborts.discard)

    def busy(self) -> int:
        return self._active.total()

    def steps(self) -> int:
        return self._probed

    async def _probe(self) -> None:
        """Count what vLLM's core answers between its steps for as long as it has work: one that hangs answers nothing, and
        an answer that is told of only at its end is no sign."""
        while self._active and self.healthy():
            await self.bare.is_sleeping()
            self._probed += 1
            await asyncio.sleep(_PROBE_SECONDS)

    def healthy(self) -> bool:
        return not self.bare.errored

    def close(self, drain: bool = True) -> None:
        self.bare.shutdown()


def _scores(ids: list[int], found: list[dict[int, Any]] | None, top: int) -> tuple[TokenScore, ...]:
    """vLLM's log-probabilities, which know the `top` likeliest tokens of each position and the chosen one besides."""
    scores = []
    for token, known in zip(ids, found or [], strict=False):
        best = sorted((other.rank, i, float(other.logprob)) for i, other in known.items() if other.rank <= top)
        scores.append(TokenScore(token, float(known[token].logprob), tuple((i, logprob) for _, i, logprob in best)))
    return tuple(scores)
