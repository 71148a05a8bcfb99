from pathlib import Path

import torch

from llmagentos.training.fisher import fisher
from tests.training.test_loop import PAD, tiny
from tests.training.test_plan import write_rows

NAMES = ("model.norm.weight", "model.layers.0.mlp.up_proj.weight")


def by_hand(rows: object, indices: list[int]) -> dict[str, torch.Tensor]:
    """Each row alone through the whole model, its answer's log-probability summed by a loop, its gradient squared."""
    total = {name: torch.tensor(0.0) for name in NAMES}
    for index in indices:
        model = tiny().eval()
        ids, mask = (torch.tensor(part.tolist()) for part in rows[index])
        logps = torch.log_softmax(model(input_ids=ids[None]).logits[0], -1)
        sum(logps[p - 1, ids[p]] for p in range(1, len(ids)) if mask[p]).backward()
        for name, weight in model.named_parameters():
            if name in total:
                total[name] = total[name] + weight.grad**2 / len(indices)
    return total


def test_it_is_the_mean_of_the_squared_gradients_of_single_examples(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"memory": 5})
    found, wanted = fisher(tiny(), rows, [0, 2, 4], PAD, NAMES), by_hand(rows, [0, 2, 4])
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-8)


def test_it_is_not_the_square_of_a_batch_s_gradient(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"memory": 4})
    each = [fisher(tiny(), rows, [i], PAD, NAMES)[NAMES[0]] for i in range(4)]
    torch.testing.assert_close(fisher(tiny(), rows, [0, 1, 2, 3], PAD, NAMES)[NAMES[0]], sum(each) / 4)
