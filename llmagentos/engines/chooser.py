"""How one request's next token is chosen: penalties, bias, grammar, then the best one or a drawn one.

Each request has a chooser of its own with its own dice, so an answer is the same whatever else is in the batch.
"""

from collections import Counter
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from llmagentos.engines.engine import Sampling, TokenScore
from llmagentos.engines.vocabulary import Matcher

_LEAST = -9999.0
"""What stands for the log-probability of something impossible, as in OpenAI's answers."""
_FOLD = 0x9E3779B1
"""Odd and far from any power of two (2^32 over the golden ratio)."""


class Chooser:
    """One request's choices so far. Shared by copies of its state, so that a request put back in the queue goes on."""

    def __init__(self, sampling: Sampling, matcher: Matcher | None = None) -> None:
        self.scores: list[TokenScore] = []
        """One for each token chosen, where the request asked for log-probabilities."""
        self.failure: str | None = None
        """Why the grammar could not be followed to its end."""
        self._sampling, self._matcher = sampling, matcher
        self._counts: Counter[int] = Counter()
        self._bias = dict(sampling.logit_bias)
        self._penalised = bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(_folded(sampling.seed))

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Chooser":
        return self

    @staticmethod
    def needed(sampling: Sampling) -> bool:
        """Whether a request asks for more than the best token, which the batch finds without a chooser."""
        wanted = (sampling.temperature, sampling.presence_penalty, sampling.frequency_penalty, sampling.logit_bias)
        return any(wanted) or sampling.logprobs is not None or sampling.grammar is not None

    def choose(self, scores: torch.Tensor) -> int:
        """The next token by the model's scores [V], which stay as they are."""
        adjusted = self._adjusted(scores)
        if self.failure is not None and self._matcher is not None:
            token = self._matcher.stop_id
        elif self._sampling.temperature > 0:
            token = self._draw(adjusted)
        else:
            token = int(adjusted.argmax())
        if self._sampling.logprobs is not None:
            self.scores.append(score(scores, token, self._sampling.logprobs))
        self._note(token)
        return token

    def _adjusted(self, scores: torch.Tensor) -> torch.Tensor:
        if not self._penalised and not self._bias and self._matcher is None:
            return scores.cpu()
        adjusted = scores.float().cpu().clone()
        if self._counts:
            counts = torch.tensor(list(self._counts.values()), dtype=adjusted.dtype)
            adjusted[list(self._counts)] -= self._sampling.presence_penalty + self._sampling.frequency_penalty * counts
        if self._bias:
            adjusted[list(self._bias)] += torch.tensor(list(self._bias.values()), dtype=adjusted.dtype)
        if self._matcher is not None:
            self._matcher.mask(adjusted)
            stuck = "nothing may come next" if adjusted.max() == -torch.inf else None
            self.failure = self._matcher.failure or stuck
        return adjusted

    def _draw(self, scores: torch.Tensor) -> int:
        """Draw from softmax(scores / temperature) cut to the smallest set with mass top_p (Holtzman et al., 2020)."""
        below = scores.to(torch.float64, copy=True)
        below -= below.max()  # nothing overflows, however low the temperature
        probabilities = torch.softmax(below.div_(self._sampling.temperature), dim=-1)
        if self._sampling.top_p < 1:
            ordered, order = probabilities.sort(descending=True, stable=True)
            probabilities[order[ordered.cumsum(0) - ordered > self._sampling.top_p]] = 0
        # Each token has dice of its own: where the order of two that are about as likely hangs on rounding, which the
        # rest of the batch changes, the draw does not.
        return int(torch.multinomial(probabilities, 1, generator=self._generator))

    def _note(self, token: int) -> None:
        if self._penalised:
            self._counts[token] += 1
        if self._matcher is not None:
            self._matcher.advance(token)


def score(scores: torch.Tensor, token: int, top: int) -> TokenScore:
    """The log-probability of a token and of the `top` likeliest ones under softmax of the scores [V]."""
    logprobs = torch.log_softmax(scores.float(), dim=-1).clamp(min=_LEAST)
    best = logprobs.topk(min(top, logprobs.numel()))
    return TokenScore(token, float(logprobs[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)))


def _folded(seed: int) -> int:
    """64 bits of a seed as the 32 that torch's generator keeps on a CPU; a smaller seed stays as it is."""
    high, low = divmod(seed % (1 << 64), 1 << 32)
    return (low + high * _FOLD) % (1 << 32)


class Choices(ContinuousBatchingLogitsProcessor):
    """Leaves rows without a chooser as they are, and makes the chosen token the greatest of the others."""

    supported_kwargs = {"chooser": Chooser}
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._choosers: list[Chooser | None] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        self._choosers = [r.state.logit_processor_kwargs.get("chooser") for r in requests_with_new_token]
        return torch.zeros(len(self._choosers), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        for row, chooser in enumerate(self._choosers):
            if chooser is not None:
                scores[row, chooser.choose(scores[row])] = torch.inf
        return scores
