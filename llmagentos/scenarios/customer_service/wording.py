"""How customers of the shop word their questions, in English and Chinese, and how the agent should answer.

Frames come in three groups: `FAMILIAR` is what the seed model was trained on, `FRESH` appears first in the traffic
of day two, `UNSEEN` is in neither: only evaluation asks it.
"""

import random

from llmagentos.scenarios.customer_service.shop import Shop, Value
from llmagentos.scenarios.question import Question

LANGUAGES = ("en", "zh")

_NAMES = {
    "en": {
        "price": ("price", "cost"), "colour": ("colour", "color"), "warranty": ("warranty", "guarantee"),
        "material": ("material", "make"), "origin": ("origin", "place of manufacture"),
        "return_window": ("return window", "time to return things"),
        "free_shipping": ("free shipping limit", "minimum for free shipping"),
        "gift_wrap": ("gift wrap price", "charge for gift wrapping"),
        "delivery_days": ("delivery time", "time a delivery takes"),
        "reply_hours": ("reply time of support", "wait for a support reply"),
        "points": ("bonus points per order", "points I get per order"),
        "credit_months": ("store credit validity", "lifetime of store credit"),
        "max_items": ("item limit per order", "most items per order"),
        "trade_in": ("trade-in bonus", "bonus for trading in"),
    },
    "zh": {
        "price": ("价格", "售价"), "colour": ("颜色", "色彩"), "warranty": ("保修期", "质保时间"),
        "material": ("材料", "材质"), "origin": ("产地", "生产地"),
        "return_window": ("退货期限", "退货时间"), "free_shipping": ("包邮门槛", "免运费金额"),
        "gift_wrap": ("礼品包装费", "包装礼物的价钱"), "delivery_days": ("配送时间", "送货时间"),
        "reply_hours": ("客服回复时间", "客服响应时间"), "points": ("每单积分", "下单积分"),
        "credit_months": ("余额有效期", "购物金有效期"), "max_items": ("每单限购数量", "单次限购"),
        "trade_in": ("以旧换新补贴", "旧物换新优惠"),
    },
}  # fmt: skip

_ANSWERS = {
    "en": {
        "price": "The {p} costs {v} dollars.", "colour": "The {p} is {v}.",
        "warranty": "The {p} has a warranty of {v} months.", "material": "The {p} is made of {v}.",
        "origin": "The {p} comes from {v}.", "return_window": "You can return things within {v} days.",
        "free_shipping": "Shipping is free from {v} dollars.", "gift_wrap": "Gift wrapping costs {v} dollars.",
        "delivery_days": "Delivery takes {v} days.", "reply_hours": "Support replies within {v} hours.",
        "points": "You get {v} points per order.", "credit_months": "Store credit is valid for {v} months.",
        "max_items": "You can order at most {v} items.", "trade_in": "The trade-in bonus is {v} dollars.",
    },
    "zh": {
        "price": "{p}的价格是{v}元。", "colour": "{p}是{v}的。", "warranty": "{p}保修{v}个月。",
        "material": "{p}是用{v}做的。", "origin": "{p}产自{v}。", "return_window": "{v}天内可以退货。",
        "free_shipping": "满{v}元包邮。", "gift_wrap": "礼品包装{v}元。", "delivery_days": "配送需要{v}天。",
        "reply_hours": "客服{v}小时内回复。", "points": "每单得{v}积分。", "credit_months": "余额{v}个月内有效。",
        "max_items": "每单最多{v}件。", "trade_in": "以旧换新补贴{v}元。",
    },
}  # fmt: skip

_PRODUCT_FRAMES = {
    "en": (
        "What is the {a} of the {p}?", "Tell me the {a} of the {p}.", "{p}: {a}?", "{a} of the {p}, please.",
        "Could you tell me the {p}'s {a}?", "Do you know the {a} of the {p}?", "Hi, what about the {a} of the {p}?",
        "I am looking at the {p}. What is its {a}?", "The {p}, what {a} does it have?", "{p} {a}",
        "Can you check the {a} for the {p}?", "Please look up the {a} of {p}.", "Quick question: {a} of {p}?",
        "My friend asks about the {a} of the {p}.", "For the {p}, what is the {a}?", "I forgot the {a} of the {p}.",
        "Before I buy the {p}: its {a}?", "Remind me of the {p}'s {a}", "i need the {a} of {p}", "What {a} has the {p}?",
        "Is the {a} of the {p} known?", "{p}, and its {a} is what?", "Give me the {a} of the {p}",
        "About the {p}: tell me its {a}.", "Let me know the {a} for {p}.", "Hello! {p}, {a}?",
        "May I ask the {a} of the {p}?", "How about the {p}? I mean its {a}.", "Which {a} does the {p} have?",
        "Sorry, what was the {a} of the {p} again?",
    ),
    "zh": (
        "{p}的{a}是什么？", "请问{p}的{a}？", "{p}{a}", "告诉我{p}的{a}。", "{p}的{a}是多少？", "我想知道{p}的{a}",
        "能查一下{p}的{a}吗？", "你好，{p}的{a}呢？", "关于{p}，{a}是什么？", "我在看{p}，它的{a}呢？", "帮我看看{p}的{a}",
        "{a}，{p}的", "麻烦问一下{p}的{a}", "{p}有什么{a}？", "忘了{p}的{a}，再说一次", "买{p}之前想问{a}", "朋友问{p}的{a}",
        "说说{p}的{a}", "您知道{p}的{a}吗？", "查询{p}：{a}", "{p}这款，{a}是？", "想了解{p}的{a}。", "{p}，它的{a}？",
        "请告知{p}的{a}",
    ),
}  # fmt: skip

_POLICY_FRAMES = {
    "en": (
        "What is the {a}?", "Tell me the {a}.", "{a}?", "{a}, please.", "Could you tell me the {a}?",
        "Do you know the {a}?", "Hi, what about the {a}?", "Your shop: what is the {a}?", "What {a} do you have?",
        "{a}", "Can you check the {a}?", "Please look up the {a}.", "Quick question: {a}?", "My friend asks about the {a}.",
        "In this shop, what is the {a}?", "I forgot the {a}.", "Before I buy: the {a}?", "Remind me of the {a}",
        "i need the {a}", "What {a} is there?", "Is the {a} known?", "So the {a} is what?", "Give me the {a}",
        "About the shop: tell me the {a}.", "Let me know the {a}.", "Hello! {a}?", "May I ask the {a}?",
        "How about your rules? I mean the {a}.", "Which {a} do you offer?", "Sorry, what was the {a} again?",
    ),
    "zh": (
        "{a}是什么？", "请问{a}？", "{a}", "告诉我{a}。", "{a}是多少？", "我想知道{a}", "能查一下{a}吗？", "你好，{a}呢？",
        "关于本店，{a}是什么？", "我在逛店，{a}呢？", "帮我看看{a}", "{a}，你们的", "麻烦问一下{a}", "有什么{a}？",
        "忘了{a}，再说一次", "购买之前想问{a}", "朋友问{a}", "说说{a}", "您知道{a}吗？", "查询：{a}", "本店的{a}是？",
        "想了解{a}。", "你们的{a}？", "请告知{a}",
    ),
}  # fmt: skip

FAMILIAR = {"en": range(0, 22), "zh": range(0, 17)}
FRESH = {"en": range(22, 26), "zh": range(17, 20)}
UNSEEN = {"en": range(26, 30), "zh": range(20, 24)}


_OPENERS = {
    "en": ("Hi, ", "Hello. ", "Hey! ", "Excuse me, ", "Good day. ", "One more thing: ", "OK so ", "Sorry, "),
    "zh": ("你好，", "您好，", "嗨，", "打扰一下，", "还有，", "对了，", "客服，", "那个，"),
}
_CLOSERS = {
    "en": (" Thanks!", " please", " Thank you.", " ...", " asap", " I am in a hurry."),
    "zh": ("谢谢", "，谢谢！", "，急", "，麻烦了", "，多谢。", "……"),
}


def decorated(prompt: str, language: str, rng: random.Random) -> str:
    """The same question with an opener or a closer, as people write."""
    if rng.random() < 0.6:
        prompt = rng.choice(_OPENERS[language]) + prompt
    return prompt if rng.random() < 0.5 else prompt + rng.choice(_CLOSERS[language])


def key_of(fact: tuple[str, str], language: str) -> str:
    """The key names the fact in one language: its answers in two languages are two texts."""
    return f"{fact[0]}/{fact[1]}/{language}"


def answer(fact: tuple[str, str], value: Value, language: str) -> str:
    """The agent's right answer."""
    return _ANSWERS[language][fact[1]].format(p=fact[0], v=value[LANGUAGES.index(language)])


def ask(shop: Shop, fact: tuple[str, str], language: str, frame: int, rng: random.Random, *, skill: str = "shop") -> Question:
    """One wording of a question about a fact, with its right answer."""
    subject, attribute = fact
    name = rng.choice(_NAMES[language][attribute])
    frames = (_POLICY_FRAMES if subject == "policy" else _PRODUCT_FRAMES)[language]
    prompt = frames[frame].format(a=name, p=subject)
    return Question(
        prompt[:1].upper() + prompt[1:] if rng.random() < 0.8 else prompt,
        answer(fact, shop.facts[fact], language),
        "policy" if subject == "policy" else skill,
        key=key_of(fact, language),
        frame=f"{language}/{frame}",
        language=language,
    )
