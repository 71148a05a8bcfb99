"""Personal data and secrets out of prompts and answers, before anything is stored as training data.

Own patterns, each with the check its numbers carry (Luhn, mod 97, the Chinese id's check digit), because a shop's prices,
sizes and counts must come through untouched. Each find becomes a typed placeholder, so that a sentence keeps its shape.
Digits and Latin letters are the same in whatever width or script they are written.
"""

import ipaddress
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import from_json

from llmagentos.core.clean import map_text
from llmagentos.core.messages import Message


class Redactor(Protocol):
    """Anything that takes personal data out of a text: our patterns, or a recogniser from elsewhere."""

    def redact(self, text: str) -> tuple[str, dict[str, int]]:
        """The text with placeholders, and how many of each kind there are."""
        ...


@dataclass(frozen=True)
class Pattern:
    """One kind of personal data. `check` sees the matched text and may refuse it; `group` is what gets replaced."""

    kind: str
    regex: re.Pattern[str]
    check: Callable[[str], bool] = lambda _: True
    group: int = 0


def luhn(text: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1), and a length and prefix that an issuer uses."""
    digits = re.sub(r"\D", "", text)
    if not re.fullmatch(_CARD_PREFIX, digits) or len(set(digits)) == 1:
        return False
    doubled = (sum(divmod(2 * int(d), 10)) if i % 2 else int(d) for i, d in enumerate(reversed(digits)))
    return sum(doubled) % 10 == 0


def iban(text: str) -> bool:
    """ISO 13616: rearranged and read as a number, it leaves 1 modulo 97."""
    bare = text.replace(" ", "")
    return 15 <= len(bare) <= 34 and int("".join(str(int(c, 36)) for c in bare[4:] + bare[:4])) % 97 == 1


def chinese_id(text: str) -> bool:
    """GB 11643: 17 digits and a check character modulo 11."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(text, weights, strict=False))
    return "10X98765432"[total % 11] == text[-1].upper()


def ip_address(text: str) -> bool:
    """An IPv4 or IPv6 address; a short `a::b` is more likely code than an address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == 4 or len([part for part in text.split(":") if part]) >= 3


def unsorted(text: str) -> bool:
    """Pairs of digits that are not simply a list in order."""
    pairs = re.findall(r"\d\d", text)
    return pairs != sorted(pairs)


class _Plain(dict[int, str]):
    """Each character as itself, digits and what numbers and addresses are written with in their plain form."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        digit = unicodedata.decimal(char, None)
        if digit is not None:
            plain = str(digit)
        else:
            plain = unicodedata.normalize("NFKC", char) if char in _WIDE else "-" if char in _DASHES else char
        self[code] = plain
        return plain


_WIDE = "＠．－＋＿\u00a0\u202f\u3000" + "".join(chr(c + 0xFEE0) for c in range(0x21, 0x7F) if chr(c).isalpha())
_DASHES = "\u2010\u2011\u2212"
_PLAIN = _Plain()
_CARD_PREFIX = r"4(\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|6\d{15,18}"
_FREE, _STOP = r"(?<![0-9A-Za-z.,+-])", r"(?![0-9A-Za-z-]|[.,]\d)"  # the same, where Han characters may touch it

PATTERNS = (
    Pattern(
        "KEY",
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----BEGIN).){0,20000}?-----END [A-Z ]{0,40}PRIVATE KEY-----",
            re.DOTALL,
        ),
    ),
    Pattern(
        "KEY",
        re.compile(
            r"(?<![A-Za-z0-9])(?:sk-[\w-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|AKIA[0-9A-Z]{16}"
            r"|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{20,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})",
            re.ASCII,
        ),
    ),
    Pattern("KEY", re.compile(r"(?i)\bbearer\s+([A-Za-z0-9._~+/-]{16,}=*)"), group=1),
    Pattern(
        "KEY",
        re.compile(
            r"(?i)(?:(?<![A-Za-z0-9])(?:api[ _-]?key|access[ _-]?token|secret(?:[ _-]?key)?|password|passwd|passwort|contraseña"
            r"|mot de passe)|пароль|密码|密碼|口令|パスワード|비밀번호)[\"']?\s*"
            r"(?:[:=：]|\bis\b|是|为|為|は)\s*[\"']?((?:(?![\"',;])[!-~]){8,})"
        ),
        lambda text: not text.startswith("[") and bool(re.search(r"\d", text)) and bool(re.search(r"[^\d.,]", text)),
        group=1,
    ),
    Pattern("EMAIL", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}(?![A-Za-z0-9])", re.ASCII)),
    Pattern("IBAN", re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Z0-9])"), iban),
    Pattern(
        "ID",
        re.compile(
            rf"{_FREE}[1-9]\d{{5}}(?:19|20)\d{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{{3}}[\dXx]{_STOP}",
            re.ASCII,
        ),
        chinese_id,
    ),
    Pattern("CARD", re.compile(rf"{_FREE}\d(?:[ -]?\d){{12,18}}{_STOP}", re.ASCII), luhn),
    Pattern("PHONE", re.compile(rf"{_FREE}(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{{4}}[ -]?\d{{4}}{_STOP}", re.ASCII)),
    Pattern("PHONE", re.compile(rf"{_FREE}0\d{{2,3}}-\d{{7,8}}{_STOP}", re.ASCII)),
    Pattern("PHONE", re.compile(rf"{_FREE}(?:\(0\d{{2,3}}\)|（0\d{{2,3}}）) ?\d{{7,8}}{_STOP}", re.ASCII)),
    Pattern(
        "PHONE",
        re.compile(rf"(?<![0-9A-Za-z])\+[1-9]\d{{0,2}}(?:[ .-]?\(?\d{{1,4}}\)?){{2,5}}{_STOP}", re.ASCII),
        lambda text: 9 <= len(re.sub(r"\D", "", text)) <= 15,
    ),
    Pattern("PHONE", re.compile(rf"{_FREE}(?:\(\d{{3}}\) ?|\d{{3}}[.-])\d{{3}}[.-]\d{{4}}{_STOP}", re.ASCII)),
    # As they are dialled within a country: 090-1234-5678, 020 7946 0958; 0171 1234567; 06 12 34 56 78; 01012345678.
    Pattern(
        "PHONE",
        re.compile(rf"{_FREE}0\d{{1,4}}([ -])\d{{2,4}}\1\d{{3,4}}{_STOP}", re.ASCII),
        lambda text: 10 <= len(re.sub(r"\D", "", text)) <= 11,
    ),
    Pattern("PHONE", re.compile(rf"{_FREE}0[1-9]\d{{1,3}}[ /]\d{{6,8}}{_STOP}", re.ASCII)),
    Pattern("PHONE", re.compile(rf"{_FREE}(?<!\d[ .])0[1-79]([ .])\d\d(?:\1\d\d){{3}}{_STOP}(?![ .]\d)", re.ASCII), unsorted),
    Pattern("PHONE", re.compile(rf"{_FREE}(?:0(?:1[0-25]|[789]0)\d{{8}}|07\d{{9}}){_STOP}", re.ASCII)),
    Pattern("ID", re.compile(rf"{_FREE}(?!000|666|9)\d{{3}}-(?!00)\d\d-(?!0000)\d{{4}}{_STOP}", re.ASCII)),  # social security
    Pattern(
        "IP",
        re.compile(r"(?<![\w.])(?<!version )(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.ASCII | re.IGNORECASE),
        ip_address,
    ),
    Pattern("IP", re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{3,45}(?![\w:])", re.ASCII), ip_address),
)
_WORTH_A_LOOK = re.compile(r"[@\d]|-----BEGIN|::")


class PatternRedactor:
    """The default: `PATTERNS`, in their order."""

    def redact(self, text: str) -> tuple[str, dict[str, int]]:
        plain = text if text.isascii() else text.translate(_PLAIN)
        if not _WORTH_A_LOOK.search(plain):
            return text, {}
        found: Counter[str] = Counter()
        for pattern in PATTERNS:
            spans = [m.span(pattern.group) for m in pattern.regex.finditer(plain) if pattern.check(m[pattern.group])]
            if spans:
                found[pattern.kind] += len(spans)
                text, plain = (_replaced(one, spans, f"[{pattern.kind}]") for one in (text, plain))
        return text, dict(found)


class NoRedactor:
    """Leaves everything as it is."""

    def redact(self, text: str) -> tuple[str, dict[str, int]]:
        return text, {}


REDACTORS: dict[str, Callable[[], Redactor]] = {"patterns": PatternRedactor, "none": NoRedactor}


def redact(messages: list[Message], redactor: Redactor) -> tuple[list[Message], dict[str, int]]:
    """Messages with every text, every speaker's name and all in tool arguments redacted, and how much was found of each kind."""
    found: Counter[str] = Counter()
    text = _counting(redactor, found)

    def arguments(raw: str) -> str:
        try:
            value = from_json(raw)
        except ValueError:  # a lone surrogate among it: that is no value anywhere (parsed_calls)
            return text(raw)
        changed = _walk(value, text)
        try:
            return raw if changed == value else json.dumps(changed, ensure_ascii=False, allow_nan=False)
        except ValueError:  # a number that JSON cannot say
            return redactor.redact(raw)[0]

    changed = [map_text(message, text, arguments) for message in messages]
    return [{**m, "name": text(m["name"])} if m.get("name") else m for m in changed], dict(found)


def redact_value(value: Any, redactor: Redactor) -> tuple[Any, dict[str, int]]:
    """A value of JSON, such as a list of tools, with its texts, names and numbers redacted, and how much was found."""
    found: Counter[str] = Counter()
    return _walk(value, _counting(redactor, found)), dict(found)


def _counting(redactor: Redactor, found: Counter[str]) -> Callable[[str], str]:
    def text(value: str) -> str:
        value, counts = redactor.redact(value)
        found.update(counts)
        return value

    return text


def _walk(value: Any, text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        said = str(value)
        return value if (changed := text(said)) == said else changed
    if isinstance(value, list):
        return [_walk(item, text) for item in value]
    if isinstance(value, dict):
        return dict(_named(name, item, text) for name, item in value.items())
    return value


def _named(name: str, value: Any, text: Callable[[str], str]) -> tuple[str, Any]:
    if (changed := text(name)) != name or not isinstance(value, str):
        return changed, _walk(value, text)
    beginning = f"{name}: "  # a password may be known by its name alone
    return name, text(beginning + value).removeprefix(beginning)


def _replaced(text: str, spans: list[tuple[int, int]], placeholder: str) -> str:
    starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(text)]
    return placeholder.join(text[start:end] for start, end in zip(starts, ends, strict=True))
