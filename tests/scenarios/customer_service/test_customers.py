from llmagentos.scenarios.customer_service.customers import day_two


def test_there_are_enough_questions_about_what_stays():
    suites = day_two(1).suites()
    assert len(suites["stay"]) >= 800
    assert min(len(suites[name]) for name in ("changed", "new", "paired anew", "absent wording")) >= 80


def test_a_customer_corrects_a_wrong_answer_and_never_a_right_one():
    visits = [v for v in day_two(1).visits(200) if v.question.key]
    for visit in visits:
        judged = visit.feedback({"role": "assistant", "content": "I do not know."})
        assert judged is not None
        if "correction" in judged:
            assert judged["correction"] in (visit.question.answer, visit.mistaken)
        right = visit.feedback(visit.question.reply(visit.mistaken))
        assert right is None or right["value"] is True


def test_wordings_of_evaluation_are_absent_from_the_day():
    day = day_two(2)
    asked = {v.question.frame for v in day.visits() if v.question.key}
    assert not asked & {q.frame for q in day.suites()["absent wording"]}
    prompts = {v.question.prompt for v in day.visits()}
    assert {q.prompt for q in day.suites()["changed"]} <= prompts
    assert not {q.prompt for q in day.suites()["paired anew"]} & prompts
