"""The material of a stream: names, wordings and languages. Two families share nothing but the shape of their stages.

Settings are tuned on `TUNED` families and reported on the others, so that a figure says something about streams that
nobody has seen.
"""

from dataclasses import dataclass, field

Frames = tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Frames hold `{p}` (who or what), `{a}` (an attribute), `{v}` (a value), `{d}` `{r}` `{s}` (device, room, state)."""

    name: str
    onsets: str
    vowels: str
    attributes: dict[str, tuple[str, ...]]
    """Attribute -> its values, at least twenty."""
    questions: Frames
    """Wordings of a question about `{a}` of `{p}`; the last one is never trained on."""
    answer: str
    commands: Frames
    """Wordings of a command; the last one is never trained on."""
    devices: tuple[str, ...]
    rooms: tuple[str, ...]
    states: tuple[str, ...]
    tool: str
    """Name of the tool of a device, with `{n}` its number."""
    arguments: tuple[str, str, str]
    """Argument for the room, for the state, and what the first is called after the rename."""
    codes: tuple[str, str]
    """Prefixes of room and state codes: the agent must know them, they cannot be copied."""
    nexts: Frames
    """Wordings of "what comes after {p}?"; the last one is never trained on."""
    recommend: str
    wordings: dict[str, Frames] = field(default_factory=dict)
    """Attribute -> its own wordings in place of `questions`: people seldom name an attribute by one word."""
    endings: tuple[str, ...] = ("",)
    """What names end in, so that some differ in that alone."""
    taught: int = 0
    """Wordings in which each fact and recommendation is taught, of those that are trained on; 0: in all. What is asked anew
    is then one of the others."""

    def asked(self, attribute: str) -> Frames:
        """Wordings of a question about an attribute; the last one is never trained on."""
        return self.wordings.get(attribute, self.questions)


def numbers(start: int, step: int, unit: str = "", count: int = 24) -> tuple[str, ...]:
    """`count` values with a unit: start, start + step, …"""
    return tuple(f"{start + k * step}{unit}" for k in range(count))


_SHOP = Family(
    name="shop",
    onsets="b d f g k l m n p r s t v z br tr st",
    vowels="a e i o u ea oo",
    attributes={
        "price": numbers(14, 7, " euros"),
        "weight": numbers(110, 45, " grams"),
        "colour": tuple("red blue green black white grey pink brown gold ivory teal navy olive amber coral lilac beige silver plum rust mint sand".split()),
        "maker": tuple("Halden Brook Ortega Lind Vasile Kern Moreau Tanaka Weiss Novak Silva Costa Berg Dahl Reyes Patel Kim Osei Ivanov Haddad Ruiz Chen".split()),
        "shelf": numbers(3, 2, ""),
    },
    questions=("What is the {a} of {p}?", "Tell me the {a} of {p}.", "{p}: {a}?", "I need the {a} for {p}", "Please look up {p}, {a}"),
    answer="The {a} of {p} is {v}.",
    commands=("Turn the {d} in the {r} {s}", "{r}: {d} {s}", "Please set the {d} {s} in the {r}", "{d} {s} ({r})"),
    devices=("lamp", "heater", "fan", "blind", "radio", "oven", "pump", "alarm", "screen", "kettle", "vent"),
    rooms=("kitchen", "hall", "study", "attic", "garage", "porch"),
    states=("on", "off", "low"),
    tool="device_{n}",
    arguments=("zone", "power", "area"),
    codes=("z", "p"),
    nexts=("I finished {p}. What next?", "After {p}, what do you suggest?", "Done with {p}, next one?", "Something like {p}?"),
    recommend="Try {v}.",
)  # fmt: skip

_CLINIC = Family(
    name="clinic",
    onsets="b d f g h k l m n r s t w sch kr fl",
    vowels="a e i o u ei au ie",
    attributes={
        "Zimmer": numbers(101, 3),
        "Sprechtag": tuple(f"{d} {t}" for d in "Montag Dienstag Mittwoch Donnerstag Freitag".split() for t in ("früh", "mittags", "spät", "abends", "nachts")),
        "Gebühr": numbers(20, 5, " Euro"),
        "Etage": numbers(1, 1, ". Stock"),
        "Fachgebiet": tuple("Auge Haut Herz Lunge Knie Hand Fuß Ohr Hals Zahn Magen Leber Niere Rücken Hüfte Nerven Blut Allergie Schlaf Gehör Stimme Kiefer".split()),
    },
    questions=("Welche {a} hat Praxis {p}?", "{p}, {a} bitte", "Sagen Sie mir {a} von {p}.", "Ich brauche {a} für {p}", "Wie lautet {a} bei {p}?"),
    answer="{p}, {a}: {v}",
    commands=("Stell {d} im {r} auf {s}", "{d} / {r} / {s}", "Bitte {d} im {r}: {s}", "{r}, {d} jetzt {s}"),
    devices=("Licht", "Heizung", "Lüfter", "Tor", "Pumpe", "Rollo", "Monitor", "Klingel", "Ofen", "Sauger", "Filter"),
    rooms=("Bad", "Flur", "Keller", "Labor", "Foyer", "Lager"),
    states=("an", "aus", "halb"),
    tool="steuere_{n}",
    arguments=("ort", "stufe", "bereich"),
    codes=("R", "S"),
    nexts=("Was kommt nach {p}?", "{p} ist gelesen, und nun?", "Empfehlung nach {p}?", "Mir gefiel {p}, was noch?"),
    recommend="Nehmen Sie {v}",
)  # fmt: skip

_MUSEUM = Family(
    name="museum",
    onsets="b c d f g j l m n p r s t v ch ll qu",
    vowels="a e i o u ia ue",
    attributes={
        "sala": numbers(2, 3),
        "siglo": tuple(f"siglo {n}" for n in "I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI XVII XVIII XIX XX XXI".split()),
        "autor": tuple("Alba Bravo Cano Duarte Espino Fuentes Gallo Herrero Iglesias Jara Luna Mora Nieto Olmo Prado Quiroga Rojas Soto Tapia Urbina Vega Zamora".split()),
        "valor": numbers(900, 150, " pesetas"),
        "origen": tuple("Toledo Burgos Lugo Soria Huesca Murcia Jaca Avila Cuenca Teruel Zamora Palma Vigo Gijon Ronda Baeza Elche Reus Ibiza Denia Motril Lorca".split()),
    },
    questions=("¿Cuál es {a} de la obra {p}?", "Dime {a} de {p}", "{p} - ¿{a}?", "Quisiera saber {a}: {p}", "Busca {a} para {p}, gracias"),
    answer="{p} ({a}): {v}.",
    commands=("Pon {d} de {r} en {s}", "{s} para {d}, {r}", "En {r}, {d} debe estar {s}", "Cambia {d} a {s} en {r}"),
    devices=("foco", "puerta", "clima", "camara", "sirena", "toldo", "panel", "bomba", "motor", "cortina", "timbre"),
    rooms=("patio", "torre", "cripta", "taller", "capilla", "jardin"),
    states=("activo", "parado", "medio"),
    tool="ajustar_{n}",
    arguments=("lugar", "modo", "recinto"),
    codes=("L", "M"),
    nexts=("He visto {p}, ¿y ahora?", "Tras {p}, ¿qué recomiendas?", "{p} me gustó, otra más", "¿Qué sigue a {p}?"),
    recommend="Le sugiero {v}.",
)  # fmt: skip

_LIBRARY = Family(
    name="library",
    onsets="zh ch sh x q j l m n w y h d t",
    vowels="a i u ao ei an ing",
    attributes={
        "书架": numbers(5, 2, "号架"),
        "楼层": numbers(1, 1, "层"),
        "押金": numbers(10, 4, "元"),
        "馆员": tuple("王丽 李强 张敏 刘洋 陈静 杨帆 赵磊 黄梅 周杰 吴霞 徐刚 孙燕 马超 朱莉 胡兵 郭涛 何琳 高峰 林芳 罗勇 梁雪 宋江".split()),
        "期限": numbers(6, 3, "天"),
    },
    questions=("{p}的{a}是什么？", "请问{p}{a}", "查一下{p}的{a}", "{a}，{p}这本", "我想了解{p}的{a}情况"),
    answer="{p}的{a}：{v}",
    commands=("把{r}的{d}调到{s}", "{r}{d}{s}", "请将{d}设为{s}，在{r}", "{d}要{s}（{r}）"),
    devices=("台灯", "空调", "风扇", "窗帘", "门锁", "屏幕", "喇叭", "水泵", "警报", "暖气", "净化器"),
    rooms=("大厅", "书房", "库房", "前台", "走廊", "展室"),
    states=("打开", "关闭", "低档"),
    tool="she_bei_{n}",
    arguments=("weizhi", "zhuangtai", "quyu"),
    codes=("w", "t"),
    nexts=("读完{p}，下一本？", "{p}之后推荐什么？", "喜欢{p}，还有呢", "看过{p}了，再来一本"),
    recommend="推荐{v}。",
)  # fmt: skip

_ESTATE = Family(
    name="estate",
    onsets="b c d f g l m n p r s t v br cr lh nh tr",
    vowels="a e i o u ão ei ia ou",
    attributes={
        "preço": numbers(12, 5, " euros"),
        "peso": numbers(150, 35, " gramas"),
        "cor": tuple("vermelho azul verde preto branco cinza rosa castanho dourado marfim turquesa marinho azeitona âmbar coral lilás bege prata ameixa ferrugem menta areia".split()),
        "produtor": tuple("Almeida Barros Couto Dias Esteves Faria Gomes Leal Moura Nunes Pires Ramos Sousa Teles Veiga Brito Campos Freitas Lemos Matos Neves Pinto".split()),
        "prazo": numbers(3, 2, " dias"),
    },
    questions=("Qual é {a} de {p}?", "{p}: {a}?", "Diga {a} de {p}", "Procure {a} para {p}"),
    wordings={
        "preço": ("Quanto custa {p}?", "Por quanto vendem {p}?", "Quero comprar {p}, quanto pago?", "Qual o preço de {p}?", "{p} sai por que valor?"),
        "peso": ("Quanto pesa {p}?", "{p} é pesado? Quantos gramas?", "Tenho de carregar {p}, qual é o peso?", "Diga-me o peso de {p}.", "Que massa tem {p}?"),
        "cor": ("De que cor é {p}?", "{p} vem pintado de quê?", "Que tom tem {p}?", "A cor de {p}, por favor", "Como é a aparência de {p}?"),
        "produtor": ("Quem faz {p}?", "De quem é {p}?", "Que família produz {p}?", "{p} vem de que casa?", "O fabricante de {p}?"),
        "prazo": ("Quanto tempo dura {p}?", "Até quando posso guardar {p}?", "{p} estraga depressa? Em quantos dias?", "Validade de {p}?", "Quando vence {p}?"),
    },
    answer="{v}",
    commands=("Ponha {d} de {r} em {s}", "{r}: {d}, {s}", "Quero {d} {s}, {r}", "Mude para {s} {d} em {r}"),
    devices=("luz", "portão", "rega", "bomba", "forno", "prensa", "estufa", "alarme", "tanque", "moinho", "ventoinha"),
    rooms=("celeiro", "pomar", "adega", "cozinha", "lagar", "curral"),
    states=("ligado", "desligado", "brando"),
    tool="comando_{n}",
    arguments=("sitio", "nivel", "zona"),
    codes=("q", "n"),
    nexts=("Quem leva {p} leva também o quê?", "Gostei de {p}, e agora?", "Algo parecido com {p}?", "O que combina com {p}?", "Um conselho para fãs de {p}"),
    recommend="{v} combina bem.",
    endings=("", "", " Velho", " Doce"),
    taught=3,
)  # fmt: skip

FAMILIES: dict[str, Family] = {f.name: f for f in (_SHOP, _CLINIC, _MUSEUM, _LIBRARY, _ESTATE)}
TUNED = ("shop", "clinic")
"""Families that settings were chosen on; figures are reported on the others."""
