"""Dark Experience Replay++: α·D(p_stored ‖ θ) on replayed rows [Buzzega+ 2020].

p_stored are the log-probabilities of the version that first learned a row, kept for ever, where `old_model_kl` asks the
version of yesterday: a drift over many updates is pulled back to where it began. The paper compares logits by squared
error; stored top-k log-probabilities with a tail are compared by a divergence. Its second part, β·cross-entropy on
memory, is what `next_token` gives on the replayed rows of the mix.

Assumes that a row which comes for the first time was learned by the present champion. Has no signal without replayed
rows, and none at the first step on rows that are new in memory.
"""

from llmagentos.training.terms.old_model_kl import OldModelKL


class DERPP(OldModelKL):
    """`weight` is the paper's α."""

    name = "derpp"
    stored = True

    def __init__(self, weight: float = 0.5, divergence: str = "forward_kl", top_k: int = 64) -> None:
        super().__init__(weight, divergence, "old", top_k)
