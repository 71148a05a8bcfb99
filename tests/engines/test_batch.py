import pytest
import torch

from llmagentos.core.records import VersionRef
from llmagentos.engines.batch import generate_greedy, generate_sampled
from llmagentos.models.loading import load_model, load_renderer

QUESTIONS = [
    "What?",
    "How long is the warranty of the lamp?",
    "你好",
    "Cost? " * 20,
    "x",
    "12",
    "Tell me more about it",
]


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_every_answer_equals_generate(tiny: VersionRef, batch_tokens: int):
    model, renderer = load_model(tiny.dir), load_renderer(tiny.dir)
    prompts = [renderer.prompt([{"role": "user", "content": q}]) for q in QUESTIONS]
    probe = generate_greedy(model, prompts, stop_ids=[], pad_id=0, max_new_tokens=24, batch_tokens=batch_tokens)
    # Ids that come up at different places end rows at different times, so that the batch shrinks.
    stops = {probe[0][2], probe[1][5], probe[2][11], renderer.eos_id}
    answers = generate_greedy(model, prompts, stop_ids=stops, pad_id=0, max_new_tokens=24, batch_tokens=batch_tokens)
    assert len({len(a) for a in answers}) > 1
    for ids, answer in zip(prompts, answers, strict=True):
        whole = model.generate(
            torch.tensor([ids]), max_new_tokens=24, do_sample=False, eos_token_id=sorted(stops), pad_token_id=0
        )
        assert answer == whole[0, len(ids) :].tolist()


def test_samples_carry_the_log_probability_they_were_drawn_with(tiny: VersionRef):
    model, renderer = load_model(tiny.dir), load_renderer(tiny.dir)
    prompts = [renderer.prompt([{"role": "user", "content": q}]) for q in QUESTIONS]
    same = {"stop_ids": renderer.stop_ids, "pad_id": 0, "max_new_tokens": 12, "batch_tokens": 10_000}
    found = generate_sampled(model, prompts, seed=1, **same)
    assert found == generate_sampled(model, prompts, seed=1, **same)
    assert found != generate_sampled(model, prompts, seed=2, **same)
    for prompt, answer in zip(prompts, found, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer.ids])).logits[0, len(prompt) - 1 : -1]
        wanted = torch.log_softmax(logits, -1).gather(-1, torch.tensor(answer.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(answer.logps), wanted, rtol=1e-3, atol=1e-3)


def test_samples_follow_the_distribution(tiny: VersionRef):
    model, renderer = load_model(tiny.dir), load_renderer(tiny.dir)
    prompt = renderer.prompt([{"role": "user", "content": "What?"}])
    found = generate_sampled(
        model, [prompt] * 2000, stop_ids=[], pad_id=0, max_new_tokens=1, batch_tokens=10**6, seed=0
    )  # fmt: skip
    with torch.inference_mode():
        wanted = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    counted = torch.bincount(torch.tensor([a.ids[0] for a in found]), minlength=len(wanted)) / 2000
    assert float((counted - wanted).abs().sum()) < 0.35
    assert float((counted - wanted).abs().max()) < 0.04


def test_no_prompts_no_answers(tiny: VersionRef):
    assert generate_greedy(None, [], stop_ids=[1], pad_id=0, max_new_tokens=4, batch_tokens=10) == []
