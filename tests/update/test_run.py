"""From judged rows in a snapshot to weights that prefer, through the product's own path, in this process."""

import pytest
import torch

from llmagentos.config.sections import ReplayConfig
from llmagentos.core.errors import TrainingError
from llmagentos.models.loading import load_model, load_renderer
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots
from llmagentos.storage.snapshots import Draft
from llmagentos.training.launch import launch
from llmagentos.update.run import prepare
from tests.replay.test_preference import row
from tests.tiny import add_tiny

LIKED = [row(f"l{i}", "liked", "Two years.", f"How long is warranty {i}?") for i in range(8)]
DISLIKED = [row(f"d{i}", "disliked", "12 euros.", f"How long is warranty {i}?") for i in range(8)]
CORRECTED = [
    row(f"c{i}", "target", "Two years.", f"How long is warranty {i}?", rejected={"role": "assistant", "content": "12 euros."})
    for i in range(8)
]


def logp(folder: str, prompt: str, answer: str) -> float:
    renderer, model = load_renderer(folder), load_model(folder)
    rendered = renderer.example([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
    with torch.inference_mode():
        scores = torch.log_softmax(model(torch.tensor([rendered.ids])).logits[0], -1)
    return sum(float(scores[p - 1, rendered.ids[p]]) for p, m in enumerate(rendered.mask) if m)


def trained(config, home, strategy: str, examples, judged) -> tuple[str, str]:
    """Folders of the weights before and after an update."""
    champion = add_tiny(home, 1)
    Buffer(home, ReplayConfig()).bootstrap([row("m", "target", "Hello", "Hi")], [row("g", "target", "3", "1+2")])
    snapshot = snapshots.create(home, Draft(examples=examples, judged=judged))
    here = config.model_copy(
        update={
            "training": config.training.model_copy(update={"workers": 0, "engine": "torch"}),
            "update": config.update.model_copy(update={"strategy": strategy, "max_steps": 40, "min_steps": 40}),
        }
    )
    prepared = prepare(here, home, snapshot, champion, home.run("update-1"))
    launch([prepared.phase], here.training, home.run("update-1"))
    return champion.dir, prepared.phase.out


@pytest.mark.parametrize(
    ("strategy", "examples", "judged"),
    [("kto", LIKED, DISLIKED), ("kto", [], DISLIKED), ("dpo", CORRECTED, []), ("kto", CORRECTED, [])],
)
def test_what_was_disliked_becomes_less_likely_than_the_other(config, home, strategy, examples, judged):
    before, after = trained(config, home, strategy, examples, judged)
    ask = "How long is warranty 3?"
    gaps = [logp(folder, ask, "Two years.") - logp(folder, ask, "12 euros.") for folder in (before, after)]
    assert gaps[1] > gaps[0] + 1
    assert logp(after, ask, "12 euros.") < logp(before, ask, "12 euros.")


def test_judged_rows_alone_are_nothing_to_a_strategy_that_does_not_read_them(config, home):
    with pytest.raises(TrainingError, match="nothing to update on"):
        trained(config, home, "replay", [], DISLIKED)
