"""vLLM behind the same protocol, for GPUs; an optional extra.

Only what the protocol needs: ids in, ids out. Rendering, stop ids and parsing stay ours, so that the ids an answer was
served with are the ids it is trained on.
"""

from collections.abc import AsyncIterator
from typing import Any

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import ConfigError, InputError
from llmagentos.core.records import VersionRef
from llmagentos.engines.engine import Chunk, EngineFailedError, Sampling, TokenScore
from llmagentos.models.loading import load_renderer


def load(ref: VersionRef, config: EngineConfig, dtype: str) -> "VllmEngine":
    """Start vLLM on a version. Raises ConfigError when it is not installed."""
    try:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise ConfigError(
            f"engine.name=vllm, but vLLM cannot be imported ({error}).",
            hint="Install it with pip install 'llmagentos[vllm]', or set engine.name=transformers.",
        ) from None
    arguments = AsyncEngineArgs(
        model=ref.dir, dtype=dtype, block_size=config.page_size, enable_log_requests=False, trust_remote_code=False
    )
    return VllmEngine(ref, AsyncLLM.from_engine_args(arguments))


class VllmEngine:
    """One version's weights in a vLLM engine."""

    def __init__(self, ref: VersionRef, engine: Any) -> None:
        self.ref = ref
        self.renderer = load_renderer(ref.dir)
        self.max_length = int(engine.model_config.max_model_len)
        self._engine = engine
        self._active: dict[str, bool] = {}

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling: Sampling, *, stream: bool = True
    ) -> AsyncIterator[Chunk]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if sampling.grammar:
            field = sampling.grammar.field
            raise InputError(f"{field}: answers of a given form need engine.name=transformers.", field=field)
        parameters = SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop=list(sampling.stop),
            stop_token_ids=sorted(self.renderer.stop_ids),
            ignore_eos=sampling.ignore_eos,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            logprobs=sampling.logprobs,
            output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        )
        self._active[request_id] = True
        try:
            async for output in self._engine.generate({"prompt_token_ids": prompt_ids}, parameters, request_id):
                answer = output.outputs[0]
                reason = "cancelled" if answer.finish_reason == "abort" else answer.finish_reason
                ids = list(answer.token_ids)
                yield Chunk(ids, reason, _scores(ids, answer.logprobs, sampling.logprobs or 0))
        except (RuntimeError, ValueError) as error:
            raise EngineFailedError(f"vLLM failed on version {self.ref.id}: {error}.") from error
        finally:
            self._active.pop(request_id, None)

    def cancel(self, request_id: str) -> None:
        import asyncio

        if request_id in self._active:
            self._cancelling = asyncio.ensure_future(self._engine.abort(request_id))

    def busy(self) -> int:
        return len(self._active)

    def steps(self) -> int | None:
        return None  # vLLM watches its own core, and says so in healthy()

    def healthy(self) -> bool:
        return not self._engine.errored

    def close(self, drain: bool = True) -> None:
        self._engine.shutdown()


def _scores(ids: list[int], found: list[dict[int, Any]] | None, top: int) -> tuple[TokenScore, ...]:
    """vLLM's log-probabilities, which know the `top` likeliest tokens of each position and the chosen one besides."""
    scores = []
    for token, known in zip(ids, found or [], strict=False):
        best = sorted((other.rank, i, float(other.logprob)) for i, other in known.items() if other.rank <= top)
        scores.append(TokenScore(token, float(known[token].logprob), tuple((i, logprob) for _, i, logprob in best)))
    return tuple(scores)
