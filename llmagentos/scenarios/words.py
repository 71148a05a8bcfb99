"""Word material: invented names, common words, and value lists in English and Chinese."""

import random

_ONSETS = ("b c d f g h j k l m n p r s t v w y z br dr fl gr kl pr st tr th sh ch ").split()
_VOWELS = ["a", "a", "e", "e", "i", "i", "o", "o", "u", "u", "ai", "ea", "oo"]
_CODAS = ["", "", "", "n", "r", "l", "s", "x", "m", "th", "nd", "sk"]


def invented_name(rng: random.Random, syllables: int = 0) -> str:
    """A pronounceable name that is no word, e.g. Velora."""
    count = syllables or rng.choice((2, 2, 2, 3))
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)]
    return ("".join(parts) + rng.choice(_CODAS)).capitalize()


def invented_names(rng: random.Random, count: int, *, avoid: frozenset[str] = frozenset()) -> list[str]:
    """`count` distinct names, none of `avoid`, no two that share their first four letters."""
    names: list[str] = []
    seen = {n[:4] for n in avoid}
    while len(names) < count:
        name = invented_name(rng)
        if name[:4] not in seen and len(name) >= 5:
            seen.add(name[:4])
            names.append(name)
    return names


WORDS = (
    "apple river stone cloud table green window paper candle garden silver bridge forest market pencil yellow "
    "summer winter orange basket ladder mirror carpet button bottle pillow blanket kitchen station island mountain "
    "valley ocean desert planet engine wheel hammer needle thread ticket pocket jacket sweater guitar violin piano "
    "drum tiger rabbit horse eagle salmon beetle spider lemon cherry peanut butter cheese pepper sugar honey bread "
    "coffee doctor farmer teacher pilot sailor dancer painter writer driver baker small large quick quiet bright "
    "heavy gentle "
).split()

HAN_WORDS = (
    "苹果 河流 石头 白云 桌子 窗户 纸张 蜡烛 花园 大桥 森林 市场 铅笔 夏天 冬天 篮子 镜子 地毯 瓶子 枕头 厨房 车站 小岛 高山 "
    "海洋 沙漠 行星 锤子 车票 口袋 外套 吉他 老虎 兔子 老鹰 柠檬 樱桃 "
    "花生 奶酪 蜂蜜 面包 咖啡 医生 农民 老师 画家 "
).split()

COLOURS = (
    ("red", "红色"), ("blue", "蓝色"), ("green", "绿色"), ("yellow", "黄色"), ("black", "黑色"), ("white", "白色"),
    ("grey", "灰色"), ("purple", "紫色"), ("orange", "橙色"), ("pink", "粉色"), ("brown", "棕色"), ("silver", "银色"),
    ("gold", "金色"), ("beige", "米色"), ("turquoise", "青绿色"), ("navy", "藏青色"), ("olive", "橄榄色"),
    ("crimson", "深红色"), ("ivory", "象牙色"), ("lilac", "丁香色"), ("coral", "珊瑚色"), ("amber", "琥珀色"),
    ("teal", "水鸭色"), ("maroon", "栗色"),
)  # fmt: skip

MATERIALS = (
    ("cotton", "棉"), ("wool", "羊毛"), ("silk", "丝绸"), ("linen", "亚麻"), ("leather", "皮革"), ("steel", "钢"),
    ("copper", "铜"), ("glass", "玻璃"), ("oak", "橡木"), ("bamboo", "竹子"), ("plastic", "塑料"), ("rubber", "橡胶"),
    ("ceramic", "陶瓷"), ("marble", "大理石"), ("felt", "毛毡"), ("velvet", "天鹅绒"), ("titanium", "钛"),
    ("aluminium", "铝"), ("paper", "纸"), ("cork", "软木"), ("walnut", "胡桃木"), ("nylon", "尼龙"),
    ("carbon fibre", "碳纤维"), ("granite", "花岗岩"),
)  # fmt: skip

CITIES = (
    ("Lisbon", "里斯本"), ("Porto", "波尔图"), ("Madrid", "马德里"), ("Lyon", "里昂"), ("Milan", "米兰"),
    ("Vienna", "维也纳"), ("Prague", "布拉格"), ("Berlin", "柏林"), ("Oslo", "奥斯陆"), ("Helsinki", "赫尔辛基"),
    ("Dublin", "都柏林"), ("Athens", "雅典"), ("Cairo", "开罗"), ("Nairobi", "内罗毕"), ("Mumbai", "孟买"),
    ("Hanoi", "河内"), ("Osaka", "大阪"), ("Seoul", "首尔"), ("Shanghai", "上海"), ("Chengdu", "成都"),
    ("Lima", "利马"), ("Quito", "基多"), ("Toronto", "多伦多"), ("Boston", "波士顿"), ("Sydney", "悉尼"),
    ("Auckland", "奥克兰"),
)  # fmt: skip
