"""Small words that go with names: they are taken out of frames, and put in as another name has them."""

from llmagentos.replay.conversations import conversed
from llmagentos.replay.frames import framed
from llmagentos.replay.joints import Joints, split
from llmagentos.replay.naming import places_of, questions_of

OFFICES = {
    "Bauamt": "zum",
    "Standesamt": "zum",
    "Stadtkasse": "zur",
    "Jugendamt": "zum",
    "Ordnungsamt": "zum",
    "Meldestelle": "zur",
}
WAY, TIME = "Wie komme ich {} {}?", "Wann kann ich {} {}?"


def row(prompt: str, answer: str, key: str) -> dict:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {
        "id": prompt,
        "key": key,
        "messages": messages,
        "tools": None,
        "prompt": prompt.casefold(),
        "answer": answer,
        "skill": None,
    }


def rows(*left_out: str) -> list[dict]:
    """Each office is asked for its way and its time, in two wordings each, but for prompts that are left out."""
    found = []
    for number, (office, joint) in enumerate(OFFICES.items()):
        for what, asks in (("way", (WAY, "Weg {} {}?")), ("time", (TIME, "Zeit {} {}?"))):
            made = (row(ask.format(joint, office), f"{what} {number}.", f"{office}.{what}") for ask in asks)
            found += [one for one in made if one["messages"][0]["content"] not in left_out]
    return found


def joints_of(some: list[dict]) -> Joints:
    return Joints.of({asked: places_of(of) for asked, of in questions_of(some).items()})


def test_a_head_is_parted_before_its_last_word():
    assert split("Wie komme ich zum ") == ("Wie komme ich ", "zum ")
    assert split("il ticket dell'") == ("il ticket ", "dell'")
    assert split("") is split("Bitte: ") is None  # what a mark parts goes with no name
    assert split("Bitte: der ") == ("Bitte: ", "der ")


def test_a_joint_goes_with_its_name_whatever_is_asked():
    joints = joints_of(rows())
    stem = joints.stem_of(("Wie komme ich zum ", "?"), "Bauamt")
    assert stem == joints.stem_of(("Wie komme ich zur ", "?"), "Stadtkasse")
    assert joints.frame_of(stem, "Bauamt") == ("Wie komme ich zum ", "?")
    assert joints.frame_of(("Way of ", "?"), "Bauamt") == ("Way of ", "?"), "no stem"


def test_a_word_of_one_attribute_is_no_joint():
    some = [
        row(f"Tell me the {a} {name}", f"{a} {name} is {n}.", f"{name}.{a}")
        for n, name in enumerate(("Zorba", "Quill", "Nemo"))
        for a in ("price", "weight")
    ]
    joints = joints_of(some)
    assert not joints.stems
    assert joints.stem_of(("Tell me the price ", ""), "Zorba") == ("Tell me the price ", "")


def test_where_a_name_was_never_asked_so_it_has_the_joint_it_has_beside_others():
    made = framed(rows("Wie komme ich zur Meldestelle?"), 8, held={})
    asked = [one["messages"][0]["content"] for one in made if one["key"] == "Meldestelle.way"]
    assert "Wie komme ich zur Meldestelle?" in asked
    assert not any("zum Meldestelle" in text for text in asked)


def test_a_conversation_is_carried_over_to_names_with_other_joints():
    start = "Ich habe eine Frage zum Bauamt."
    turns = [("user", start), ("assistant", "Ja, bitte?"), ("user", "Wie lange?"), ("assistant", "time 0.")]
    messages = [{"role": role, "content": text} for role, text in turns]
    talk = {**row("Wie lange?", "time 0.", "Bauamt.time"), "messages": messages, "prompt": "talk"}
    others = []
    for number, office in enumerate(OFFICES):
        if office in ("Standesamt", "Jugendamt", "Ordnungsamt"):
            begun, answer = f"Ich habe eine Frage zum {office}.", f"time {number}."
            said = [{**messages[0], "content": begun}, *messages[1:3], {**messages[3], "content": answer}]
            others.append({**talk, "messages": said, "key": f"{office}.time", "answer": answer, "prompt": begun})
    made = conversed([talk], 8, held={}, beside=[*rows(), *others])
    beginnings = {one["key"]: one["messages"][0]["content"] for one in made}
    assert beginnings["Stadtkasse.time"] == "Ich habe eine Frage zur Stadtkasse."
    assert all(one["messages"][-1]["content"] == f"time {list(OFFICES).index(one['key'][:-5])}." for one in made)


def test_a_joint_that_is_not_known_makes_nothing():
    joints = joints_of([*rows(), row("Weg Wald?", "way 9.", "Wald.way"), row("Wald, Weg?", "way 9.", "Wald.way")])
    stem = joints.stem_of(("Wie komme ich zum ", "?"), "Bauamt")
    assert joints.frame_of(stem, "Wald") is None


def test_a_text_is_bent_for_another_name():
    joints = joints_of(rows())
    assert joints.bent("Ich will zum Bauamt.", "Bauamt", "Stadtkasse") == "Ich will zur Stadtkasse."
    assert joints.bent("Ich will zum Bauamt.", "Bauamt", "Wald") == "Ich will zum Wald.", "as it stood, where none is known"
    assert joints.bent("Bauamt, Bauamt", "Bauamt", "Stadtkasse") == "Stadtkasse, Stadtkasse"
