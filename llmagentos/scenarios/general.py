"""General skills with a known right answer, in varied wording: what an update must not cost."""

import random
from collections.abc import Callable, Sequence

from llmagentos.scenarios.question import Question
from llmagentos.scenarios.words import HAN_WORDS, WORDS, invented_name


def _pick(rng: random.Random, low: int, high: int) -> list[str]:
    return rng.sample(WORDS, rng.randint(low, high))


def _text(rng: random.Random) -> str:
    """One or two words, some invented: what is copied must not be a known phrase."""
    words = [invented_name(rng) if rng.random() < 0.3 else rng.choice(WORDS) for _ in range(rng.randint(1, 2))]
    return " ".join(words)


def _ask(rng: random.Random, frames: Sequence[str], skill: str, answer: str, **parts: str) -> Question:
    k = rng.randrange(len(frames))
    return Question(frames[k].format(**parts), answer, skill, frame=f"{skill}/{k}")


def copy(rng: random.Random) -> Question:
    """Say a text again."""
    if rng.random() < 0.25:
        text = "".join(rng.sample(HAN_WORDS, rng.randint(1, 2)))
        return _ask(rng, ("请重复：{t}", "重复一遍：{t}", "照抄：{t}"), "copy", text, t=text)
    text = _text(rng)
    frames = ("Repeat: {t}", "Say this again: {t}", "Copy this: {t}", "Echo: {t}", "Write the same: {t}")
    return _ask(rng, frames, "copy", text, t=text)


def reverse(rng: random.Random) -> Question:
    words = _pick(rng, 2, 4)
    frames = ("Reverse the words: {t}", "Say in reverse order: {t}", "Backwards, word by word: {t}", "Reverse: {t}")
    return _ask(rng, frames, "reverse", " ".join(reversed(words)), t=" ".join(words))


def sort(rng: random.Random) -> Question:
    numbers = rng.sample(range(10, 100), rng.randint(2, 3))
    frames = ("Sort: {t}", "Put in order: {t}", "Sort from small to large: {t}", "Order these numbers: {t}")
    answer = " ".join(map(str, sorted(numbers)))
    return _ask(rng, frames, "sort", answer, t=" ".join(map(str, numbers)))


def add(rng: random.Random) -> Question:
    a, b = rng.randint(0, 20), rng.randint(0, 9)
    frames = ("{a}+{b}", "What is {a} plus {b}?", "Add {a} and {b}", "{a}加{b}等于几？", "Sum of {a} and {b}?")
    return _ask(rng, frames, "add", str(a + b), a=str(a), b=str(b))


def largest(rng: random.Random) -> Question:
    numbers = rng.sample(range(10, 100), rng.randint(2, 3))
    small = rng.random() < 0.4
    frames = ("Smallest of {t}?", "Which is the smallest: {t}?") if small else ("Largest of {t}?", "哪个最大：{t}？")
    answer = str(min(numbers) if small else max(numbers))
    return _ask(rng, frames, "largest", answer, t=" ".join(map(str, numbers)))


def first_last(rng: random.Random) -> Question:
    words = _pick(rng, 2, 5)
    last = rng.random() < 0.5
    frames = ("Last word of: {t}", "Which word comes last: {t}") if last else ("First word of: {t}", "Start of: {t}")
    return _ask(rng, frames, "first_last", words[-1 if last else 0], t=" ".join(words))


def count(rng: random.Random) -> Question:
    words = _pick(rng, 1, 6)
    frames = ("How many words: {t}", "Count the words: {t}", "Number of words in: {t}")
    return _ask(rng, frames, "count", str(len(words)), t=" ".join(words))


_TALK = (
    ("hello", ("Hello", "Hi there", "Good morning", "Hey", "Hello, anyone there?"), "Hello! How can I help you?"),
    ("thanks", ("Thanks", "Thank you so much", "Great, thanks", "That helped, thank you"), "You are welcome!"),
    ("bye", ("Bye", "Goodbye", "See you", "That was all, bye"), "Goodbye!"),
    ("who", ("Who are you?", "What are you?", "Are you a human?"), "I am an assistant of this shop."),
    ("nihao", ("你好", "您好", "早上好", "你好，在吗？"), "您好！请问有什么可以帮您？"),
    ("xiexie", ("谢谢", "非常感谢", "好的，谢谢"), "不客气！"),
    ("complain", ("I am angry", "This is terrible service", "I want to complain"), "I am sorry. Let me help you."),
)


def talk(rng: random.Random) -> Question:
    name, asks, answer = rng.choice(_TALK)
    k = rng.randrange(len(asks))
    ending = rng.choice(("", "", "!", "."))
    ask = asks[k] if asks[k][-1] in "?？" else asks[k] + ending
    return Question(ask, answer, "talk", frame=f"talk/{name}/{k}")


_ORDERS = ("Where is order {o}?", "Track my order {o}", "What happened to order {o}?", "订单{o}到哪里了？")
_CANCELS = ("Cancel order {o}", "Please cancel my order {o}", "I do not want order {o} any more", "取消订单{o}")


def _tool(name: str, *arguments: str) -> dict[str, object]:
    properties = {a: {"type": "string"} for a in arguments}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def order_tools() -> tuple[dict[str, object], ...]:
    """The tools of `tool`, for other questions about orders."""
    return (_tool("track_order", "order"), _tool("cancel_order", "order"))


def tool(rng: random.Random) -> Question:
    """Which tool to call, and with which order number."""
    order = str(rng.randint(1000, 9999))
    cancel = rng.random() < 0.5
    frames = _CANCELS if cancel else _ORDERS
    k = rng.randrange(len(frames))
    tools = order_tools()
    call = ("cancel_order" if cancel else "track_order", (("order", order),))
    frame = f"tool/{'cancel' if cancel else 'track'}/{k}"
    return Question(frames[k].format(o=order), "", "tool", frame=frame, tools=tools, call=call)


_VERBS = "open close start stop set find play book check lock send order".split()
_ARGUMENTS = "room level place time name value area mode target state number who where item unit".split()
_COMMANDS = (
    "{v} the {n} in {p}, {x}", "Please {v} the {n}: {p}, {x}", "{v} {n} {p} {x}", "I want to {v} the {n} at {p} with {x}",
    "For {p}: {v} the {n} to {x}", "Can you {v} the {n} of {p}? {x}",
)  # fmt: skip


def command(rng: random.Random) -> Question:
    """A call of a tool that only this request knows: its name and those of its arguments stand in the tools offered."""
    verbs, nouns = rng.sample(_VERBS, 2), [invented_name(rng).lower() if rng.random() < 0.3 else rng.choice(WORDS) for _ in "12"]
    tools, (first, second) = [], rng.sample(_ARGUMENTS, 2)
    for verb, noun in zip(verbs, nouns, strict=True):
        tools.append(_tool(f"{verb}_{noun}", first, second))
    place = invented_name(rng) if rng.random() < 0.5 else rng.choice(WORDS)
    value = str(rng.randint(1, 99)) if rng.random() < 0.5 else rng.choice(WORDS)
    k, which = rng.randrange(len(_COMMANDS)), rng.randrange(2)
    prompt = _COMMANDS[k].format(v=verbs[which], n=nouns[which], p=place, x=value)
    call = (f"{verbs[which]}_{nouns[which]}", ((first, place), (second, value)))
    return Question(prompt, "", "command", frame=f"command/{k}", tools=tuple(tools), call=call)


SKILLS: dict[str, Callable[[random.Random], Question]] = {
    "copy": copy,
    "reverse": reverse,
    "sort": sort,
    "add": add,
    "largest": largest,
    "first_last": first_last,
    "count": count,
    "talk": talk,
    "tool": tool,
    "command": command,
}


HARD = {"copy": 2.0, "sort": 2.0, "largest": 1.5, "command": 2.0}
"""Skills that want more practice than the others."""


def questions(
    rng: random.Random, count_each: int, *, avoid: frozenset[str] = frozenset(), weights: dict[str, float] | None = None
) -> list[Question]:
    """About `count_each` questions a skill (times its weight) with distinct prompts, none of them in `avoid`.

    A skill that has fewer gives those it has.
    """
    found: list[Question] = []
    for name, make in SKILLS.items():
        wanted = round(count_each * (weights or {}).get(name, 1.0))
        seen: dict[str, Question] = {}
        for _ in range(wanted * 4):
            question = make(rng)
            if question.prompt not in avoid:
                seen.setdefault(question.prompt, question)
            if len(seen) >= wanted:
                break
        found += seen.values()
    return found
