"""Talk to the served agent from a terminal, and judge what it says; the same HTTP that everybody uses."""

import uuid
from typing import Any

import httpx

from llmagentos.config import Config
from llmagentos.core.errors import CapacityError
from llmagentos.core.messages import Message
from llmagentos.local.simulate import authorization, endpoint, refused

_TIMEOUT_SECONDS = 120.0
_HELP = "/good, /bad, /correct TEXT judge the last answer; /new begins again; /quit ends."


def ask(config: Config, text: str) -> dict[str, Any]:
    """One question. Returns {"answer", "interaction_id", "model_version"}."""
    with _client(config) as client:
        return _turn(client, config, [{"role": "user", "content": text}], str(uuid.uuid4()))


def converse(config: Config) -> None:
    """A conversation until /quit or the end of input."""
    messages: list[Message] = []
    session, last = str(uuid.uuid4()), ""
    print(_HELP)
    with _client(config) as client:
        while (text := _read()) is not None:
            command, _, rest = text.partition(" ")
            if command == "/new":
                messages, session, last = [], str(uuid.uuid4()), ""
            elif command in ("/good", "/bad", "/correct"):
                _judge(client, last, command, rest)
            elif text:
                messages.append({"role": "user", "content": text})
                said = _turn(client, config, messages, session)
                messages.append({"role": "assistant", "content": said["answer"]})
                last = said["interaction_id"]
                print(f"{said['answer']}\n  [version {said['model_version']}]")


def _read() -> str | None:
    try:
        text = input("> ").strip()
    except EOFError:
        return None
    return None if text in ("/quit", "/exit") else text


def _turn(client: httpx.Client, config: Config, messages: list[Message], session: str) -> dict[str, Any]:
    body = {"model": config.serve.agent_name, "messages": messages}
    headers = {"Idempotency-Key": str(uuid.uuid4()), "X-Session-Id": session}
    reply = _send(client, "chat/completions", body, headers)
    message = reply["choices"][0]["message"]
    answer = message.get("content") or ""
    for call in message.get("tool_calls") or []:
        answer += f"{call['function']['name']}({call['function']['arguments']})"
    return {"answer": answer, "interaction_id": reply["interaction_id"], "model_version": reply["model_version"]}


def _judge(client: httpx.Client, interaction: str, command: str, text: str) -> None:
    if not interaction or (command == "/correct" and not text):
        print("There is no answer yet to judge." if not interaction else "Write the right answer after /correct.")
        return
    body: dict[str, Any] = {"interaction_id": interaction, "source": "human", "name": "thumb"}
    body |= {"correction": text} if command == "/correct" else {"value": command == "/good"}
    _send(client, "feedback", body, {"Idempotency-Key": str(uuid.uuid4())})
    print("Noted.")


def _send(client: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    try:
        reply = client.post(path, json=body, headers=headers)
    except httpx.HTTPError as error:
        raise CapacityError(f"the agent does not answer ({error}).", hint="`llmagentos status` says what runs.") from None
    if reply.is_error:
        raise refused(reply)
    return dict(reply.json())


def _client(config: Config) -> httpx.Client:
    base = f"{endpoint(config)}/v1/"
    return httpx.Client(base_url=base, headers=authorization(config), timeout=_TIMEOUT_SECONDS, trust_env=False)
