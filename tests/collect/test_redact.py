"""Personal data goes, prices stay."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmagentos.collect.redact import REDACTORS, PatternRedactor, chinese_id, iban, luhn, redact, redact_value

redactor = PatternRedactor()

PERSONAL = [
    ("write to jo.doe+x@mail.example.co.uk, please", "write to [EMAIL], please"),
    ("我的邮箱是zhang@example.cn。", "我的邮箱是[EMAIL]。"),
    ("call +49 170 1234567 now", "call [PHONE] now"),
    ("call (415) 555-2671", "call [PHONE]"),
    ("415-555-2671.", "[PHONE]."),
    ("手机13812345678，谢谢", "手机[PHONE]，谢谢"),
    ("+86 138 1234 5678", "[PHONE]"),
    ("电话010-62345678", "电话[PHONE]"),
    ("IBAN DE89 3704 0044 0532 0130 00 ok", "IBAN [IBAN] ok"),
    ("GB29NWBK60161331926819", "[IBAN]"),
    ("card 4111 1111 1111 1111", "card [CARD]"),
    ("5500-0000-0000-0004", "[CARD]"),
    ("身份证11010519491231002X。", "身份证[ID]。"),
    ("from 192.168.1.20:", "from [IP]:"),
    ("2001:db8:85a3::8a2e:370:7334", "[IP]"),
    ("key sk-abcdefghijklmnop1234", "key [KEY]"),
    ("AKIAIOSFODNN7EXAMPLE", "[KEY]"),
    ("Authorization: Bearer abcdefghij0123456789", "Authorization: Bearer [KEY]"),
    ('password: "hunter2hunter2"', 'password: "[KEY]"'),
    ("my SSN is 123-45-6789", "my SSN is [ID]"),
    ("私の携帯は090-1234-5678です", "私の携帯は[PHONE]です"),
    ("東京 03-1234-5678", "東京 [PHONE]"),
    ("ＴＥＬ：０９０－１２３４－５６７８、です", "ＴＥＬ：[PHONE]、です"),
    ("我的手机是１３８１２３４５６７８，谢谢", "我的手机是[PHONE]，谢谢"),
    ("رقمي ٠١٠١٢٣٤٥٦٧٨", "رقمي [PHONE]"),
    ("call 020 7946 0958", "call [PHONE]"),
    ("au 06 42 17 98 03.", "au [PHONE]."),
    ("0171 1234567 or 030/1234567", "[PHONE] or [PHONE]"),
    ("邮箱：ｚｈａｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ", "邮箱：[EMAIL]"),
    ("密码是Tr0ub4dor3x，别忘", "密码是[KEY]，别忘"),
    ("パスワードは Tr0ub4dor3x です", "パスワードは [KEY] です"),
    ("DB_PASSWORD=Tr0ub4dor3x", "DB_PASSWORD=[KEY]"),
    ('{"password":"Tr0ub4dor3x"}', '{"password":"[KEY]"}'),
    ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "[KEY]"),
]

HARMLESS = [
    "The lamp costs 12 dollars.", "It is 1,299.00 EUR", "1299元", "价格是12999元。", "¥1,234,567.89", "1234567890 units",
    "3840x2160", "20-30 cm", "10 x 20 x 30", "2026-11-23", "23.11.2026", "12:30:45", "2026-11-23T10:15:30Z", "order 20261123001",
    "EAN 4006381333931", "1732400000000", "version 1.2.3.4", "v1.2.3.4", "1.2.3", "std::vector<int>", "a::b", "ISO 9001:2015",
    "300-500-700", "0.123456789012345", "3.14159265358979", "1 000 000 000 000", "4111 1111 1111 1112",
    "DE00 3704 0044 0532 0130 00",
    "110105194912310021", "password: yes", "The password is important", "secret: none", "@home", "50% off 100", "1e-12",
    "warranty of 24 months", "包邮门槛99元，7天内可以退货", "-12", "+5 points", "+12%", "range +10 to +20", "SKU-4821-77",
    "00000000000000", "01-01-2024 10:30", "01.02.2024 10", "01 02 03 04 05", "05 12 23 34 45 49", "00 01 12 23 04", "1–2",
    "２４個", "価格は１２９９円", "٣٫١٤", "007", "09:30-17:00", "0815 / 42", "123-45-678", "000-12-3456", "ab:cd", "1:2:3",
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), PERSONAL)
def test_personal_data_becomes_a_placeholder(text, wanted):
    assert redactor.redact(text)[0] == wanted


@pytest.mark.parametrize("text", HARMLESS)
def test_numbers_that_are_just_numbers_stay(text):
    assert redactor.redact(text) == (text, {})


@given(st.integers(0, 9_999_999), st.sampled_from(["${}", "{} EUR", "{}元", "costs {}.", "{:,}", "{}.99", "size {}"]))
def test_no_price_or_count_is_ever_redacted(number, frame):
    text = frame.format(number)
    assert redactor.redact(text)[0] == text


@given(st.lists(st.sampled_from([text for text, _ in PERSONAL] + HARMLESS), max_size=4))
def test_what_is_redacted_stays_as_it_is(texts):
    once, _ = redactor.redact(" \n ".join(texts))
    assert redactor.redact(once)[0] == once


def test_checks_of_numbers():
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert iban("DE89370400440532013000")
    assert not iban("DE88370400440532013000")
    assert chinese_id("11010519491231002X")
    assert not chinese_id("110105194912310021")


def test_prompts_answers_and_tool_arguments_are_redacted_and_counted():
    said = {"to": "jo@example.org", "amount": 1299, "list": ["13812345678"], "card": 4111111111111111, "ok": True}
    arguments = json.dumps(said | {"password": "Tr0ub4dor3x", "jo@example.org": "Jo"})
    messages = [
        {"role": "user", "name": "jo@example.org", "content": [{"type": "text", "text": "I am jo@example.org"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]},
    ]
    changed, counts = redact(messages, redactor)
    assert counts == {"EMAIL": 4, "PHONE": 1, "CARD": 1, "KEY": 1}
    assert changed[0]["name"] == "[EMAIL]"
    assert changed[0]["content"][0]["text"] == "I am [EMAIL]"
    called = json.loads(changed[1]["tool_calls"][0]["function"]["arguments"])
    assert called == {"to": "[EMAIL]", "amount": 1299, "list": ["[PHONE]"], "card": "[CARD]", "ok": True} | {
        "password": "[KEY]", "[EMAIL]": "Jo"}  # fmt: skip
    assert "jo@" in messages[0]["content"][0]["text"]


@pytest.mark.parametrize("odd", ['"\\ud83d"', "1e999", "[" * 300 + "]" * 300])
def test_arguments_that_nobody_could_store_as_values_are_redacted_as_text(odd):
    raw = f'{{"to": "jo@example.org", "odd": {odd}}}'
    message = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": raw}}]}
    (changed,), counts = redact([message], redactor)
    assert changed["tool_calls"][0]["function"]["arguments"] == raw.replace("jo@example.org", "[EMAIL]")
    assert counts == {"EMAIL": 1}


def test_arguments_without_personal_data_keep_their_bytes():
    raw = '{"b": 1,   "a": "x"}'
    message = {"role": "assistant", "content": "ok", "tool_calls": [{"function": {"name": "f", "arguments": raw}}]}
    assert redact([message], redactor) == ([message], {})


def test_tools_are_redacted_like_arguments():
    tools = [{"function": {"name": "mail", "parameters": {"properties": {"to": {"enum": ["jo@example.org", 1, None]}}}}}]
    changed, counts = redact_value(tools, redactor)
    assert changed[0]["function"]["parameters"]["properties"]["to"]["enum"] == ["[EMAIL]", 1, None]
    assert (counts, redact_value(None, redactor)) == ({"EMAIL": 1}, (None, {}))


@pytest.mark.parametrize("text", ["1 " + ":" * 20_000 + "z", "-----BEGIN PRIVATE KEY-----" * 500])
def test_long_runs_that_only_begin_like_something_private_are_read_once(text):
    assert redactor.redact(text) == (text, {})


def test_where_nothing_is_to_be_redacted_a_shop_tells_its_number():
    said = [{"role": "assistant", "content": "Call 030-1234567 or write to shop@alba.example."}]
    assert redact(said, REDACTORS["none"]()) == (said, {})
    assert redact(said, REDACTORS["patterns"]())[1] == {"PHONE": 1, "EMAIL": 1}


def test_any_redactor_of_that_shape_will_do():
    class Names:
        def redact(self, text):
            return text.replace("Jo", "[NAME]"), {"NAME": text.count("Jo")}

    changed, counts = redact([{"role": "user", "content": "Jo and Jo"}], Names())
    assert (changed[0]["content"], counts) == ("[NAME] and [NAME]", {"NAME": 2})
