"""The only renderer of messages to token ids and masks, for training and serving alike.

It reads a tokenizer folder with `tokenizers` and the model's own Jinja chat template, without transformers or torch,
so that data workers start quickly. Every assistant turn is tokenised as a piece of its own, in training and when it
is history while serving: the ids a turn is trained on are the ids it is served with.
"""

import contextlib
import json
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic_core import from_json
from tokenizers import Tokenizer

from llmagentos.core.errors import ConfigError, InputError
from llmagentos.core.hashing import digest
from llmagentos.core.messages import Message, text_of

CALL = "<|call|>"
HERMES = ("<tool_call>", "</tool_call>")
_NAME = re.compile(r".{1,256}")
"""A function's name: what else stands where one should is no call, and could not be sent back."""
_BEGUN = {
    CALL: re.compile(r"(?s)(?P<name>[^{]*)(?P<arguments>\{.*)"),
    HERMES[0]: re.compile(r'(?s)\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"(?:\s*,\s*"arguments"\s*:\s*(?P<arguments>\{.*))?'),
}
"""What a call begins with until its function's name is whole, by what marks it."""
Call = dict[str, str]
"""A function's name and its arguments as JSON."""
_FAR = 2
"""Times that a text must exceed a length to do so in pieces, too: tokenised apart they may have fewer tokens."""
_BEGINNING = 32
"""Characters a token that are looked at, and again, to tell so."""
_SHORT = 2000
"""Characters of the longest conversation that is kept in mind once it was rendered."""
_KEPT = 4096
"""How many of them are."""
_PLAIN = (
    "{%- for m in messages %}{{ m.role + ': ' + m.content + (eos_token if m.role == 'assistant' else '\n') }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids, and a mask that is 1 on the tokens an answer is learned from."""

    ids: list[int]
    mask: list[int]


class Renderer:
    """Messages to ids and back for one tokenizer folder. Raises ConfigError where the folder cannot be used."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # noqa: BLE001  tokenizers raises bare Exception
            raise ConfigError(
                f"{self.folder} has no usable tokenizer.json ({error}).", hint="Save the model with a fast tokenizer."
            ) from None
        self._settings = _read_json(self.folder / "tokenizer_config.json")
        self.eos_id = self._token_id("eos_token")
        if self.eos_id is None:
            raise ConfigError(f"{self.folder}: the tokenizer names no eos_token, so no answer could ever end.")
        pad = self._token_id("pad_token")
        self.pad_id: int = self.eos_id if pad is None else pad
        self.vocab_size = self.tokenizer.get_vocab_size()
        self._template_text = self._find_template()
        self._template = _environment().from_string(self._template_text)

    @cached_property
    def hash(self) -> str:
        """Identity of tokenizer and template: logged ids are valid for this renderer only."""
        return digest([self.tokenizer.to_str(), self._template_text], length=16)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: the tokenizer's eos and those of the generation config."""
        found = _read_json(self.folder / "generation_config.json").get("eos_token_id")
        listed = found if isinstance(found, list) else [] if found is None else [found]
        return frozenset({self.eos_id, *map(int, listed)})

    @cached_property
    def call_markers(self) -> tuple[str, ...]:
        """What the model's calls are written with: our marker where its tokenizer knows it, else Hermes' two (Qwen)."""
        return HERMES if self.tokenizer.token_to_id(CALL) is None else (CALL,)

    @cached_property
    def unsaid_ids(self) -> frozenset[int]:
        """Ids that no answer's text shows: those that end it, and special tokens but for the markers of its calls."""
        added = self.tokenizer.get_added_tokens_decoder().items()
        return self.stop_ids | {i for i, token in added if token.special and token.content not in self.call_markers}

    @cached_property
    def _names(self) -> dict[str, str]:
        return {k: self._token(k) or "" for k in ("bos_token", "eos_token", "pad_token", "unk_token")}

    @cached_property
    def _specials(self) -> list[str]:
        added = self.tokenizer.get_added_tokens_decoder().values()
        return sorted((t.content for t in added if t.special), key=len, reverse=True)

    def prompt(self, messages: list[Message], tools: list[dict[str, Any]] | None = None, longest: int | None = None) -> list[int]:
        """Ids up to where the assistant begins to speak.

        Of a prompt that is far longer than `longest` tokens, more than that many: every turn takes two renderings, and
        those are not made for a prompt that nobody can use.
        """
        pieces, _ = self._pieces([*messages, {"role": "assistant", "content": ""}], tools, len(messages), longest)
        return [i for text, _ in pieces for i in self._encode(text)]

    def plain(self, text: str, longest: int) -> list[int]:
        """Ids of text as it stands; of one that is far longer than `longest` tokens, more than that many."""
        return self._encode(self._beginning(text, longest) or text)

    def example(self, messages: list[Message], tools: list[dict[str, Any]] | None = None, *, keep: bool = False) -> Rendered:
        """Ids and mask of a whole conversation; a turn with `weight` 0 is not supervised.

        Raises InputError when no token would be supervised. With `keep` a short conversation is kept in mind, for all
        renderers that are equal: what a suite asks is asked of one model after another.
        """
        said = json.dumps([messages, tools], ensure_ascii=False) if keep else ""
        return _kept(self, said) if 0 < len(said) <= _SHORT else self._example(messages, tools)

    def __eq__(self, other: object) -> bool:
        """Whether both give the same ids for the same messages."""
        return isinstance(other, Renderer) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @cached_property
    def _identity(self) -> tuple[str, frozenset[int], tuple[str, ...]]:
        return self.hash, self.stop_ids, tuple(self._names.values())

    def _example(self, messages: list[Message], tools: list[dict[str, Any]] | None) -> Rendered:
        last = max((i for i, m in enumerate(messages) if m.get("role") == "assistant"), default=-1)
        if last < 0:
            raise InputError("messages holds no assistant message.", field="messages")
        pieces, _ = self._pieces(messages[: last + 1], tools, until=None)
        ids: list[int] = []
        mask: list[int] = []
        for text, supervised in pieces:
            piece = self._encode(text)
            # What a template puts behind the end of a turn (a newline) belongs to no answer.
            end = next((k + 1 for k, i in enumerate(piece) if i in self.stop_ids), len(piece))
            ids += piece
            mask += [1 if supervised and k < end else 0 for k in range(len(piece))]
        while ids and not mask[-1] and any(mask) and ids[-1] not in self.stop_ids:
            ids.pop()
            mask.pop()
        if not any(mask):
            raise InputError("no token of this row is supervised: every assistant turn has weight 0.", field="messages")
        return Rendered(ids, mask)

    def answer(self, ids: list[int]) -> Message:
        """Generated ids as an assistant message, tool calls parsed out of it."""
        kept = []
        for i in ids:
            if i in self.stop_ids:
                break
            kept.append(i)
        return parse_answer(self.text(kept), self.call_markers[0])

    def text(self, ids: list[int]) -> str:
        """Generated ids as text, of special tokens the markers of calls alone."""
        return str(self.tokenizer.decode([i for i in ids if i not in self.unsaid_ids], skip_special_tokens=False))

    def unmarked(self, text: str) -> str:
        """Text of an answer that makes no call without the markers that are special tokens, which nobody can read."""
        for marker in self.call_markers:
            text = text.replace(marker, "") if marker in self._specials else text
        return text

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _beginning(self, text: str, longest: int) -> str:
        """What of a text is enough to tell that it is far longer than `longest` tokens; empty where it is not."""
        step, tokens = _BEGINNING * longest, 0
        for at in range(0, len(text) if len(text) > _FAR * longest else 0, step):
            tokens += len(self._encode(text[at : at + step]))
            if tokens > _FAR * longest:
                return text[: at + step]
        return ""

    def _pieces(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, until: int | None, longest: int | None = None
    ) -> tuple[list[tuple[str, bool]], str]:
        """Split the rendered text at the borders of assistant turns: [(text, is a supervised answer)]."""
        clean, tools = [self._clean(m) for m in messages], self._defused(tools)
        stop = len(clean) if until is None else until
        whole = self._render(clean[:stop], tools, until is not None)
        if longest is not None and (beginning := self._beginning(whole, longest)):
            return [(beginning, False)], whole
        pieces: list[tuple[str, bool]] = []
        at = 0
        for i in range(stop):
            if clean[i]["role"] != "assistant":
                continue
            before = self._render(clean[:i], tools, True)
            after = whole if until is None and i == stop - 1 else self._render(clean[: i + 1], tools, False)
            # Some templates render history otherwise than the last turn; such a turn stays part of the prompt.
            if not (whole.startswith(after) and after.startswith(before) and len(before) >= at):
                continue
            pieces.append((whole[at : len(before)], False))
            pieces.append((whole[len(before) : len(after)], messages[i].get("weight", 1) != 0))
            at = len(after)
        if at < len(whole):
            pieces.append((whole[at:], False))
        return pieces, whole

    def _render(self, messages: list[Message], tools: list[dict[str, Any]] | None, generation: bool) -> str:
        try:
            return self._template.render(self._names, messages=messages, tools=tools or None, add_generation_prompt=generation)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InputError(f"the chat template refuses these messages: {error}.", field="messages") from None

    def _clean(self, message: Message) -> Message:
        """Text that cannot forge a turn, wherever it stands, and arguments of tool calls as values. Many templates, Qwen's too,
        know no developer and would leave out what one says."""
        role = "system" if message["role"] == "developer" else message["role"]
        clean: Message = {"role": role, "content": self._defuse(text_of(message))}
        if message.get("tool_calls"):
            clean["tool_calls"] = [self._call_values(c) for c in message["tool_calls"]]
        for extra in ("name", "tool_call_id"):
            if message.get(extra):
                clean[extra] = self._defuse(str(message[extra]))
        return clean

    def _defuse(self, text: str) -> str:
        for special in self._specials:
            if special in text:
                text = text.replace(special, special[:1] + " " + special[1:])
        return text

    def _defused(self, value: Any) -> Any:
        """A value of JSON whose texts and keys are defused."""
        if isinstance(value, str):
            return self._defuse(value)
        if isinstance(value, list):
            return [self._defused(one) for one in value]
        return {self._defuse(key): self._defused(one) for key, one in value.items()} if isinstance(value, dict) else value

    def _call_values(self, call: dict[str, Any]) -> dict[str, Any]:
        function = call.get("function", {})
        name, arguments = self._defuse(str(function.get("name", ""))), function.get("arguments", "{}")
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError):
                arguments = from_json(arguments)
        arguments = self._defused(arguments)  # as values: their JSON may spell any character otherwise
        if isinstance(arguments, str) and self._defuse(name + arguments) != name + arguments:
            arguments = " " + arguments  # a template may write it right behind the name
        return {"type": "function", "function": {"name": name, "arguments": arguments}}

    def _find_template(self) -> str:
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text("utf-8")
        found = self._settings.get("chat_template")
        if isinstance(found, list):
            found = next((t["template"] for t in found if t.get("name") == "default"), None)
        return str(found) if found else _PLAIN

    def _token(self, name: str) -> str | None:
        value = self._settings.get(name)
        return str(value["content"]) if isinstance(value, dict) else value

    def _token_id(self, name: str) -> int | None:
        token = self._token(name)
        return None if token is None else self.tokenizer.token_to_id(token)


def parse_answer(text: str, marker: str) -> Message:
    """Text of an answer as a message. Its calls are in the notation that `marker` begins, ours or Hermes' (Qwen): what is
    written in the other is a quotation."""
    content, calls = calls_of(text, marker)
    made = [call for call in calls if call is not None]
    return calling(content, made) if calls and made == calls else {"role": "assistant", "content": text}


def calls_of(text: str, marker: str, cut: str | None = None) -> tuple[str, list[Call | None]]:
    """What an answer says before its calls, and these; None is one that is no call.

    Where a "stop" string or its "length" `cut` the answer off, the last one's name may not be whole. If it is, what the length
    left of the arguments is told.
    """
    content, *said = text.split(marker)
    calls = [_own_call(c) if marker == CALL else _hermes_call(c.split(HERMES[1])[0]) for c in said]
    if cut and calls and (calls[-1] is None or "{" not in said[-1]):
        calls[-1] = _begun_call(said[-1], marker) if cut == "length" else None
    return content, calls


def calling(content: str, calls: list[Call]) -> Message:
    """The message of an answer that makes these calls."""
    if not calls:
        return {"role": "assistant", "content": content.rstrip()}
    tool_calls = [
        {"id": f"call_{digest([k, content, call], length=24)}", "type": "function", "function": call}
        for k, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": content.rstrip() or None, "tool_calls": tool_calls}


def _own_call(text: str) -> Call | None:
    name, brace, rest = text.strip().partition("{")
    return _made_call(name.strip(), brace + rest or {})


def _hermes_call(text: str) -> Call | None:
    try:
        call = from_json(text)
        return _made_call(str(call["name"]), call.get("arguments", {}))
    except (ValueError, KeyError, TypeError):
        return None


def _begun_call(text: str, marker: str) -> Call | None:
    found = _BEGUN[marker].match(text)
    if not found or not _NAME.fullmatch(name := found["name"].strip()):
        return None
    arguments = found["arguments"] or ""
    try:
        from_json(arguments or "{}", allow_partial="trailing-strings")
    except ValueError:
        return None  # no beginning of any arguments
    with contextlib.suppress(ValueError):
        return _made_call(name, json.JSONDecoder().raw_decode(arguments)[0])  # they are whole
    return {"name": name, "arguments": arguments}


def _made_call(name: str, arguments: object) -> Call | None:
    """A call of arguments that are an object or the text of one; None where a client could not read it."""
    try:
        value = from_json(arguments) if isinstance(arguments, str) else arguments
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return None
    return {"name": name, "arguments": written} if _NAME.fullmatch(name) and isinstance(value, dict) else None


def _environment() -> ImmutableSandboxedEnvironment:
    def tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    # A template that prints today's date would make the same row another row tomorrow.
    environment.globals["strftime_now"] = lambda _format: ""
    return environment


@lru_cache(maxsize=_KEPT)
def _kept(renderer: Renderer, said: str) -> Rendered:
    """The same for all renderers that are equal."""
    return renderer._example(*json.loads(said))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from None
    return dict(data)
