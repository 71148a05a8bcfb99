import math
from pathlib import Path

import pytest
import torch

from llmagentos.core.evaluation import EvalItem, Suite
from llmagentos.core.messages import answer_text
from llmagentos.engines.batch import generate_greedy
from llmagentos.evaluate.score import ScoreCache, score
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model, seed_dir
from llmagentos.scenarios.customer_service.customers import day_two

LIMITS = {"batch_tokens": 2048, "max_new_tokens": 48}


@pytest.fixture(scope="module")
def seed() -> tuple:
    return load_model(seed_dir()), Renderer(seed_dir())


def suite_of_the_day(count: int) -> Suite:
    found = day_two(3).suites()
    questions = [*found["stay"][:count], *found["changed"][:count]]
    items = [EvalItem(id=str(k), messages=q.messages(), key=q.key) for k, q in enumerate(questions)]
    return Suite(name="day", kind="registered", hash="", items=items)


def test_the_forced_pass_says_what_generating_says(seed: tuple, tmp_path: Path):
    model, renderer = seed
    suite = suite_of_the_day(20)
    results = score(lambda: seed, [suite], cache=ScoreCache(tmp_path), **LIMITS)
    prompts = [renderer.prompt(i.messages[:-1]) for i in suite.items]
    said = generate_greedy(model, prompts, stop_ids=renderer.stop_ids, pad_id=renderer.pad_id, **LIMITS)
    for result, item, ids in zip(results, suite.items, said, strict=True):
        text = answer_text(renderer.answer(ids))
        assert result.right == (text == answer_text(item.messages[-1]))
        assert result.answer == text
    assert {r.right for r in results} == {True, False}


def test_a_question_is_asked_once_per_version(seed: tuple, tmp_path: Path):
    suite = suite_of_the_day(4)
    first = score(lambda: seed, [suite], cache=ScoreCache(tmp_path), **LIMITS)

    def never() -> tuple:
        raise AssertionError("the cache knows it all")

    assert score(never, [suite], cache=ScoreCache(tmp_path), **LIMITS) == first


def test_a_pass_in_a_hurry_and_a_full_one_keep_their_outcomes_apart(seed: tuple, tmp_path: Path):
    suite = suite_of_the_day(8)
    hurried = score(lambda: seed, [suite], cache=ScoreCache(tmp_path), generate=False, **LIMITS)
    wrong = [r for r in hurried if not r.right]
    assert wrong
    assert {r.answer for r in wrong} == {""}
    full = score(lambda: seed, [suite], cache=ScoreCache(tmp_path), **LIMITS)
    assert all(r.answer for r in full)
    # A generated answer that is right in other words than the forced ones is no right answer of a hurried pass.
    cache = ScoreCache(tmp_path)
    lenient = next(i for i in suite.items if i.id == wrong[0].item_id).content
    cache.keep_answers({lenient: (True, "in other words", False)})
    assert score(lambda: seed, [suite], cache=ScoreCache(tmp_path), generate=False, **LIMITS) == hurried
    assert [r.right for r in score(lambda: seed, [suite], cache=ScoreCache(tmp_path), **LIMITS)] != [r.right for r in hurried]


def test_the_forced_pass_is_not_made_twice(seed: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    suite = suite_of_the_day(4)
    score(lambda: seed, [suite], cache=ScoreCache(tmp_path), generate=False, **LIMITS)

    def never(*arguments: object) -> list[bool]:
        raise AssertionError("it was made before")

    monkeypatch.setattr("llmagentos.evaluate.score._forced", never)
    assert len(score(lambda: seed, [suite], cache=ScoreCache(tmp_path), **LIMITS)) == 8


@pytest.mark.parametrize("lost", [1, 2, 4, 12])
def test_a_cache_whose_writer_died_goes_on_with_the_lines_that_are_whole(tmp_path: Path, lost: int):
    ScoreCache(tmp_path).keep_answers({"a": (True, "twelve", False), "b": (False, "价格", False)})
    torn = tmp_path / "answers.jsonl"
    torn.write_bytes(torn.read_bytes()[: -lost - len(b", false]\n")])
    assert list(ScoreCache(tmp_path).answers) == ["a"]
    ScoreCache(tmp_path).keep_answers({"c": (True, "two", False)})
    assert ScoreCache(tmp_path).answers == {"a": (True, "twelve", False), "c": (True, "two", False)}


def wanting(answer: str) -> Suite:
    day = suite_of_the_day(6)
    reply = {"role": "assistant", "content": answer}
    return day.model_copy(update={"items": [i.model_copy(update={"messages": [*i.messages[:-1], reply]}) for i in day.items]})


@pytest.mark.parametrize(("wanted", "endless"), [("1", True), ("one two three four five six seven eight nine ten", False)])
def test_an_answer_cut_off_is_degenerate_where_the_right_one_would_have_fitted(
    seed: tuple, tmp_path: Path, wanted: str, endless: bool
):
    results = score(lambda: seed, [wanting(wanted)], cache=ScoreCache(tmp_path), batch_tokens=2048, max_new_tokens=2)
    assert not any(r.right for r in results)
    assert all(r.degenerate is endless for r in results)


def test_a_long_free_text_is_graded_by_the_probability_of_its_tokens(seed: tuple, tmp_path: Path):
    suite, (model, renderer) = wanting("1 2 3 4 5 6 7 8 9 " * 12), seed
    results = score(lambda: seed, [suite], cache=ScoreCache(tmp_path / "long"), generate=False, **LIMITS)
    row = renderer.example(suite.items[0].messages, suite.items[0].tools)
    with torch.inference_mode():
        logps = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    told = [float(logps[at - 1, row.ids[at]]) for at, counts in enumerate(row.mask) if counts]
    assert results[0].score == pytest.approx(math.exp(sum(told) / len(told)), rel=1e-3)
    assert score(lambda: seed, [suite], cache=ScoreCache(tmp_path / "long"), generate=False, **LIMITS) == results
    assert score(lambda: seed, [wanting("twelve")], cache=ScoreCache(tmp_path / "short"), **LIMITS)[0].score is None
    old = ScoreCache(tmp_path / "old")
    old.keep_forced({item.content: (False, None) for item in suite.items})  # of a release that graded nothing
    assert score(lambda: seed, [suite], cache=old, generate=False, **LIMITS) == results


@pytest.mark.parametrize("answer", ["12", "twelve euros " * 20])
def test_what_the_chat_template_refuses_is_wrong(seed: tuple, tmp_path: Path, answer: str):
    asked = suite_of_the_day(2).items
    messages = [{"role": "user", "content": "price?"}, {"role": "assistant", "content": answer}]
    bad = EvalItem(id="bad", messages=messages, tools=[{"type": "function"}])
    suite = Suite(name="s", kind="registered", hash="", items=[asked[0], bad, *asked[1:]])
    for generate in (False, True):
        results = score(lambda: seed, [suite], cache=ScoreCache(tmp_path), generate=generate, **LIMITS)
        assert (results[1].right, results[1].answer, results[1].grade) == (False, "", 0.0)
        sound = score(lambda: seed, [suite_of_the_day(2)], cache=ScoreCache(tmp_path / "apart"), generate=generate, **LIMITS)
        assert [r.answer for r in results if r.item_id != "bad"] == [r.answer for r in sound]
    alone = suite.model_copy(update={"items": [bad]})
    assert [r.right for r in score(lambda: seed, [alone], cache=ScoreCache(tmp_path / "alone"), **LIMITS)] == [False]
