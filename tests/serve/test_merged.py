"""An adapter answers as its base with it merged in, for those it is assigned to, and for nobody else."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from llmagentos.core.errors import IntegrityError, NotFoundError
from llmagentos.models.loading import load_model
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.serve import keys, merged
from llmagentos.serve.answers import Answer
from llmagentos.serve.merged import servable
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import NAME, verify
from tests.serve.conftest import Served, chat, new_home, until
from tests.tiny import add_adapter

PROBE = torch.arange(12)[None]
BY = {"by": "test", "reason": "trained on their own"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Versions 1 to 4, and 5 an adapter of 1."""
    home = new_home(tmp_path / "home")
    assert add_adapter(home, 1).id == 5
    return home


def logits(folder: str | Path) -> torch.Tensor:
    with torch.no_grad():
        return load_model(folder)(input_ids=PROBE).logits


def test_what_is_served_is_the_base_with_the_adapter_in_it(home: Home):
    from peft import PeftModel

    versions = Versions(home)
    ref = servable(versions, versions.get(5))
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(load_model(home.version(1)), home.version(5))(input_ids=PROBE).logits
    torch.testing.assert_close(logits(ref.dir), wanted, rtol=0, atol=1e-3)
    assert float((logits(home.version(1)) - wanted).abs().max()) > 0.1
    assert ref.id == 5
    assert (Path(ref.dir) / "tokenizer.json").read_bytes() == (home.version(1) / "tokenizer.json").read_bytes()
    assert verify(Path(ref.dir), ref.manifest_hash)["adapter"] == 5
    assert servable(versions, versions.get(1)) == versions.get(1).ref()


def test_it_is_merged_once_and_anew_where_the_result_was_damaged(home: Home):
    versions = Versions(home)
    folder = Path(servable(versions, versions.get(5)).dir)
    made = (folder / NAME).stat().st_ino
    assert Path(servable(versions, versions.get(5)).dir) == folder
    assert (folder / NAME).stat().st_ino == made
    (folder / "model.safetensors").write_bytes(b"")
    ref = servable(versions, versions.get(5))
    assert verify(folder, ref.manifest_hash)
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, ".lock"}


def test_two_replicas_at_once_merge_it_once_and_neither_takes_it_from_the_other(home: Home, monkeypatch: pytest.MonkeyPatch):
    versions, beside, merges = Versions(home), merged.beside, []
    with ThreadPoolExecutor(1) as other:

        def merge(*arguments: object) -> None:
            merges.append(arguments)
            if len(merges) == 1:
                refs.append(other.submit(servable, Versions(home), versions.get(5)))
                time.sleep(0.5)
            beside(*arguments)

        monkeypatch.setattr(merged, "beside", merge)
        refs: list[Future] = []
        ref = servable(versions, versions.get(5))
        assert refs[0].result() == ref
    assert len(merges) == 1


def test_a_base_that_was_changed_is_not_merged_into(home: Home):
    versions = Versions(home)
    (home.version(1) / "config.json").write_text("{}")
    with pytest.raises(IntegrityError, match="changed or damaged"):
        servable(versions, versions.get(5))
    (home.version(1) / NAME).unlink()
    with pytest.raises(NotFoundError, match="version 1"):
        servable(versions, versions.get(5))


def ask(served: Served, secret: str, **fields: object) -> tuple[int, str]:
    with served.client(Authorization=f"Bearer {secret}") as client:
        got = client.post("/v1/chat/completions", json=chat(**fields))
    assert got.status_code == 200, got.text
    said = got.json()
    assert got.headers["x-model-version"] == str(said["model_version"])
    return said["model_version"], said["choices"][0]["message"]["content"]


def test_a_tenant_and_a_scenario_are_answered_by_their_adapters(start: Callable[..., Served], home: Home):
    add_adapter(home, 1, 2)
    acme, other = (keys.add(home, name, "chat", tenant=name)[1] for name in ("acme", "other"))
    admin = keys.add(home, "admin", "admin")[1]
    served, releases, shop = start(home=home), Releases(home), {"metadata": {"scenario": "shop"}}
    champion = ask(served, acme)
    assert champion[0] == 1
    releases.assign(5, "tenant", "acme", **BY)
    releases.assign(6, "scenario", "shop", **BY)
    until(lambda: ask(served, acme)[0] == 5)
    asked = {
        "its own adapter": (ask(served, acme), 5),
        "its own before the scenario's": (ask(served, acme, **shop), 5),
        "the champion by name": (ask(served, acme, model="agent@champion"), 1),
        "its own by number": (ask(served, acme, model="agent@5"), 5),
        "a scenario's by number": (ask(served, other, model="agent@6"), 6),
        "nobody's tenant": (ask(served, other), 1),
        "the scenario": (ask(served, other, **shop), 6),
        "another scenario": (ask(served, other, metadata={"scenario": "bank"}), 1),
    }
    assert {name: version for name, ((version, _), _) in asked.items()} == {name: wanted for name, (_, wanted) in asked.items()}
    assert len({text for (_, text), _ in asked.values()}) == 3, "three models, three answers"
    with served.client(Authorization=f"Bearer {other}") as client:
        refused = client.post("/v1/chat/completions", json=chat(model="agent@5"))
        models = {one["id"] for one in client.get("/v1/models").json()["data"]}
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert {"agent@6", "agent@1"} < models
    assert "agent@5" not in models
    with served.client(Authorization=f"Bearer {admin}") as client:
        assert client.post("/v1/versions/2/promote").json()["confirmed"] is True
        refused = client.post("/v1/versions/5/promote")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_role")
    assert ask(served, acme) == asked["its own adapter"][0], "it stays on the base that it was trained on"
    assert ask(served, other)[0] == 2
    releases.unassign("tenant", "acme", **BY)
    until(lambda: ask(served, acme)[0] == 2)
    until(lambda: 5 not in served.service.residents.resident())


def test_an_adapter_that_is_removed_while_a_request_waits_leaves_it_to_the_champion(start: Callable[..., Served], home: Home):
    acme = keys.add(home, "acme", "chat", tenant="acme")[1]
    Releases(home).assign(5, "tenant", "acme", **BY)
    served, go = start(home=home), threading.Event()
    answers, residents, generate = served.service.answers, served.service.residents, served.service.answers._generate

    async def held(answer: Answer) -> None:
        await asyncio.to_thread(go.wait, 60)
        await generate(answer)

    answers._generate = held  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, served, acme)
        until(lambda: answers._under_way)
        Releases(home).unassign("tenant", "acme", **BY)
        until(lambda: not residents.release.adapters)
        go.set()
        assert waiting.result()[0] == 1


def test_an_adapter_that_is_damaged_is_a_503_for_those_it_answers_for_alone(start: Callable[..., Served], home: Home):
    acme, other = (keys.add(home, name, "chat", tenant=name)[1] for name in ("acme", "other"))
    Releases(home).assign(5, "tenant", "acme", **BY)
    weights = home.version(5) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    served = start(home=home)
    with served.client(Authorization=f"Bearer {acme}") as client:
        refused = client.post("/v1/chat/completions", json=chat())
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert "version 5" in refused.json()["error"]["message"]
    with served.client(Authorization=f"Bearer {other}") as client:
        refused = client.post("/v1/chat/completions", json=chat(model="agent@5"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found"), "nothing is loaded for a stranger"
    assert ask(served, other)[0] == 1
