"""From a batch to outputs: the language-model head on supervised positions alone, in chunks where there are too many logits.

A padded batch's columns hold several times as many positions as are supervised, and with a vocabulary of 100,000 the
logits outweigh all else in memory. So the hidden states are taken in front of the head and only those that predict a
supervised token pass it; a loss that needs no logits goes over chunks whose logits are computed again in the backward
pass [Chen+ 2016, "Training Deep Nets with Sublinear Memory Cost"].

A head whose logits are more than linear (capped ones, for instance) is found by trying it, and used as the model does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from llmagentos.training.batches import Batch, answer_logits, kept
from llmagentos.training.terms import Outputs, Term

MOST = 2**26
"""Logits held at once where no term needs them all; 256 MiB in float32."""


def forward(model: torch.nn.Module, terms: Sequence[Term], most: int = MOST) -> Callable[[Batch], Outputs]:
    """The function from a batch to what `terms` read, made once for a training run."""
    head = plain_head(model)
    if head is None:
        return lambda batch: Outputs(answer_logits(model, batch))
    chunked = not any(term.needs_logits for term in terms)

    def outputs(batch: Batch) -> Outputs:
        hidden = _hidden(model, head, batch)
        if chunked and len(hidden) * head.out_features > most:
            none = torch.zeros(0, head.out_features, device=hidden.device)
            return Outputs(none, token_losses(hidden, head, batch.targets, max(1, most // head.out_features)))
        return Outputs(head(hidden).float())

    return outputs


def logits_of(model: torch.nn.Module) -> Callable[[Batch], torch.Tensor]:
    """`answer_logits` of one model that is asked many batches: the head sees supervised positions alone, where it can."""
    head = plain_head(model)
    if head is None:
        return lambda batch: answer_logits(model, batch)
    return lambda batch: head(_hidden(model, head, batch)).float()


def _hidden(model: torch.nn.Module, head: torch.nn.Linear, batch: Batch) -> torch.Tensor:
    with _without(head):
        return kept(model, batch)[batch.select]


def token_losses(hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor, chunk: int) -> torch.Tensor:
    """[N] −log p of `targets` [N] from hidden states [N, H], holding `chunk` × V logits at a time, forward and backward."""

    def part(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(states).float(), wanted, reduction="none")

    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(part, *pair, use_reentrant=False) for pair in parts])


def plain_head(model: torch.nn.Module) -> torch.nn.Linear | None:
    """The head, if logits are a linear function of the hidden states and its weights are all here; else None."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if type(head) is not torch.nn.Linear or hasattr(head.weight, "ds_id"):  # partitioned by ZeRO-3
        return None
    probe = torch.arange(4, device=head.weight.device)[None]
    training = model.training
    model.eval()  # dropout would make two calls differ
    # A probe is no reason to compile layers for it, which takes as long as for training.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        wanted = model(input_ids=probe, use_cache=False).logits
        with _without(head):
            hidden = model(input_ids=probe, use_cache=False).logits
        # The same operations on the same numbers: capped logits may differ by little, but they do.
        plain = hidden.shape[-1] == head.in_features and torch.equal(head(hidden), wanted)
    model.train(training)
    return head if plain else None


@contextmanager
def _without(head: torch.nn.Linear) -> Iterator[None]:
    """Let the head pass on what comes in: the model's logits are then its hidden states."""
    head.forward = lambda hidden: hidden  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward
