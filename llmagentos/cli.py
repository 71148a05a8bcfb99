"""The command line: thin. Each command reads the configuration, calls one function and shows what came back.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from llmagentos import cli_adapters, cli_erase
from llmagentos.cli_options import File, Json, Overrides, Reason
from llmagentos.config import Config, load_config
from llmagentos.core.errors import ConfigError
from llmagentos.local import output

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="LLM agents that learn from their own traffic every day, and prove that they did not forget.",
    epilog="Settings trail any command: `llmagentos cycle update.strategy=naive --config my.yaml`.",
)
explain = typer.Typer(no_args_is_help=True, help="Where a version came from, or why an answer was given.")
app.add_typer(explain, name="explain")
keys = typer.Typer(no_args_is_help=True, help="Who may use the endpoint: add, list and revoke API keys.")
app.add_typer(keys, name="keys")
app.add_typer(cli_adapters.commands(lambda *read: _config(*read), lambda *told: _tell(*told)), name="adapters")
app.command("erase")(cli_erase.command(lambda *read: _config(*read), lambda *told: _tell(*told)))

Version = Annotated[str, typer.Argument(help="number or alias")]
Interaction = Annotated[str, typer.Argument(help="interaction id")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="as it was added")]
Limit = Annotated[int, typer.Option(min=1, help="newest rows to show")]
Free = Annotated[str, typer.Option("--release", help="a reason to let in again: trigger, attempts, disputed or the like")]

_line: output.Line | None = None


def main() -> None:
    """Entry point. Exit code 0 done, 1 failed, 2 wrong usage or configuration."""
    global _line
    if "--json" in sys.argv[1:]:
        _line = output.Line()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(standalone_mode=False, prog_name="llmagentos")
    except BaseException as error:  # noqa: BLE001  the process's edge
        return output.ended(error, _line)
    return code if isinstance(code, int) else output.DONE


def _tell(result: dict[str, Any], show: Callable[[dict[str, Any]], None] | None = None) -> None:
    """The result as the one line, or as a person reads it."""
    if _line:
        _line.write(result)
        return
    from llmagentos.local.show import facts

    (show or facts)(result)


def _config(file: str | None, overrides: list[str] | None) -> Config:
    config = load_config(file, overrides or ())
    if config.model.offline:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return config


def _split(first: str, default: str, overrides: list[str] | None) -> tuple[str, list[str]]:
    """An optional first argument may have been left out, and an override stands in its place."""
    rest = list(overrides or [])
    return (default, [first, *rest]) if "=" in first else (first or default, rest)


@app.command()
def up(
    overrides: Overrides = None,
    detach: Annotated[bool, typer.Option("--detach", help="leave it running and return")] = False,
    config: File = None,
    json: Json = False,
) -> None:
    """Start Ray, MLflow and the agent on this machine."""
    from llmagentos.local import keeper, show
    from llmagentos.local.up import up as start

    settings = _config(config, overrides)
    result = start(settings)
    _tell(result, show.addresses)
    if detach or result["started"]:
        (keeper.leave if detach else keeper.watch)(settings)


@app.command()
def down(overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """End exactly what `up` of this home started."""
    from llmagentos.local.down import down as end

    _tell(end(_config(config, overrides)))


@app.command()
def status(overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """What runs, what it serves and what waits."""
    from llmagentos.local.status import status as look

    _tell(look(_config(config, overrides)))


@app.command()
def doctor(overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """What is missing on this machine, and what to do about it."""
    from llmagentos.local.doctor import doctor as examine
    from llmagentos.local.show import checks

    result = examine(_config(config, overrides))
    _tell(result, checks)
    if not result["ok"]:
        raise typer.Exit(output.FAILED)


@app.command()
def chat(
    overrides: Overrides = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="ask this and return")] = None,
    config: File = None,
    json: Json = False,
) -> None:
    """Talk to the agent; /good, /bad and /correct TEXT judge its last answer."""
    from llmagentos.local import chat as talk

    settings = _config(config, overrides)
    if json and message is None:
        raise ConfigError("--json needs --message: a conversation is no single object.")
    if message is not None:
        _tell(talk.ask(settings, message), lambda result: print(result["answer"]))
    else:
        talk.converse(settings)


@app.command()
def simulate(
    scenario: Annotated[str, typer.Argument(help="whose simulated people talk with the agent")] = "",
    overrides: Overrides = None,
    visits: Annotated[int | None, typer.Option(min=1, help="how many conversations")] = None,
    seed: Annotated[int | None, typer.Option(help="whom they are and what they ask")] = None,
    config: File = None,
    json: Json = False,
) -> None:
    """Let a scenario's simulated people use the agent over HTTP."""
    from llmagentos.local.simulate import run

    name, rest = _split(scenario, "", overrides)
    settings = _config(config, rest)
    options: dict[str, Any] = {key: value for key, value in {"visits": visits, "seed": seed}.items() if value is not None}
    _tell(run(settings, name or settings.cycle.scenario, **options))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="JSONL rows")],
    overrides: Overrides = None,
    strict: Annotated[bool, typer.Option("--strict", help="all rows or none")] = False,
    config: File = None,
    json: Json = False,
) -> None:
    """Record rows of a file as if they had been served."""
    from llmagentos.collect.importing import import_file
    from llmagentos.local.show import imported

    result = import_file(_config(config, overrides), file, strict=strict)
    _tell(result, imported)
    if result["imported"] + result["duplicates"] == 0:
        raise typer.Exit(output.FAILED)


@app.command()
def export(
    file: Annotated[str, typer.Argument(help="JSONL file to write; without it stdout")] = "",
    overrides: Overrides = None,
    config: File = None,
    json: Json = False,
) -> None:
    """Write what was recorded as rows."""
    from llmagentos.collect.exporting import export as write

    path, rest = _split(file, "", overrides)
    result = write(_config(config, rest), path or None)
    if path or _line:
        _tell(result)


@app.command()
def collect(overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """Step 1: what is new as a dataset snapshot."""
    from llmagentos.local import steps

    _tell(steps.collect(_config(config, overrides)))


@app.command()
def update(overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """Step 2: train a challenger on the newest snapshot."""
    from llmagentos.local import steps

    _tell(steps.update(_config(config, overrides)))


@app.command()
def distill(overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """Step 3: train a student on the newest version."""
    from llmagentos.local import steps

    _tell(steps.distill(_config(config, overrides)))


@app.command()
def evaluate(
    overrides: Overrides = None,
    suite: Annotated[Path | None, typer.Option(help="JSONL rows whose last message is the right answer")] = None,
    version: Annotated[str, typer.Option(help="number or alias")] = "champion",
    rows: Annotated[bool, typer.Option("--rows", help="answers too")] = False,
    register: Annotated[str | None, typer.Option(help="keep the suite for the gate under this name")] = None,
    config: File = None,
    json: Json = False,
) -> None:
    """Step 4: how many answers of a version are right."""
    from llmagentos.local import show, steps

    _tell(steps.evaluate(_config(config, overrides), suite=suite, version=version, rows=rows, register=register), show.accuracy)


@app.command()
def release(
    version: Version = "challenger",
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="even if the gate rejected it")] = False,
    reason: Reason = "",
    config: File = None,
    json: Json = False,
) -> None:
    """Move traffic to a version."""
    from llmagentos.local import steps

    name, rest = _split(version, "challenger", overrides)
    _tell(steps.release(_config(config, rest), name, force=force, reason=reason))


@app.command()
def rollback(overrides: Overrides = None, reason: Reason = "", config: File = None, json: Json = False) -> None:
    """Move traffic back to the version before."""
    from llmagentos.local import steps

    _tell(steps.rollback(_config(config, overrides), reason=reason))


@app.command()
def cycle(
    overrides: Overrides = None,
    every: Annotated[str | None, typer.Option(help="again and again: 30m, 24h, 7d")] = None,
    when_due: Annotated[bool, typer.Option("--when-due", help="skipped unless enough is new, old or alarming")] = False,
    config: File = None,
    json: Json = False,
) -> None:
    """The whole walk: collect, update, distill, evaluate, decide, release."""
    from llmagentos.local import show, steps
    from llmagentos.local.progress import Progress

    settings, say = _config(config, [*(overrides or ()), *(["trigger.mode=due"] * when_due)]), Progress().say
    if every is None:
        _tell(steps.cycle(settings, say=say), show.cycle)
        return
    if json:
        raise ConfigError("--json and --every exclude one another: a loop has no single result.")
    steps.cycle_every(settings, steps.seconds_of(every), show.cycle, say=say)


@app.command()
def versions(overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """Every version with its role, status and scores."""
    from llmagentos.local import show, steps

    _tell(steps.versions(_config(config, overrides)), show.versions)


@explain.command("version")
def explain_version(version: Version, overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """A version's ancestors, data, scores and releases."""
    from llmagentos.local import steps

    _tell(steps.explain_version(_config(config, overrides), version))


@explain.command("interaction")
def explain_interaction(interaction: Interaction, overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """One answer: the request, the version that gave it, and where that version came from."""
    from llmagentos.local import steps

    _tell(steps.explain_interaction(_config(config, overrides), interaction))


@keys.command("add")
def keys_add(
    name: Annotated[str, typer.Option(help="whose key it is; for lists and logs")],
    role: Annotated[str, typer.Option(help="chat, feedback or admin")],
    overrides: Overrides = None,
    tenant: Annotated[str, typer.Option(help="whose interactions it sees")] = "default",
    per_minute: Annotated[int | None, typer.Option(help="requests a minute, per replica")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(help="answer tokens a day, per replica")] = None,
    config: File = None,
    json: Json = False,
) -> None:
    """A new key. Its secret is shown this once."""
    from llmagentos.local.keys import add

    quotas = {"per_minute": per_minute, "tokens_per_day": tokens_per_day}
    _tell(add(_config(config, overrides), name, role, tenant=tenant, **quotas))


@keys.command("list")
def keys_list(overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """Names, roles and quotas."""
    from llmagentos.local import show
    from llmagentos.local.keys import listing

    _tell(listing(_config(config, overrides)), show.keys)


@keys.command("revoke")
def keys_revoke(name: KeyName, overrides: Overrides = None, config: File = None, json: Json = False) -> None:
    """Refuse a key from now on."""
    from llmagentos.local.keys import revoke

    _tell(revoke(_config(config, overrides), name))


@app.command()
def quarantine(overrides: Overrides = None, limit: Limit = 50, free: Free = "", config: File = None, json: Json = False) -> None:
    """Rows that were set aside, and why."""
    from llmagentos.local import show, steps

    _tell(steps.quarantine(_config(config, overrides), limit, free), show.quarantine)


@app.command()
def benchmark(
    name: Annotated[str, typer.Argument(help="forgetting, for instance")],
    overrides: Overrides = None,
    option: Annotated[list[str] | None, typer.Option("--option", "-o", help="key=value of the benchmark's own")] = None,
    config: File = None,
    json: Json = False,
) -> None:
    """Measure something: loop, days, forgetting. It fails where what it measured on says nothing."""
    from llmagentos.local import progress, show, steps

    _tell(found := steps.benchmark(_config(config, overrides), name, option or [], say=progress.Progress().say), show.benchmark)
    raise typer.Exit(int(bool(found.get("validity"))))


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="folder for agent/, student/, suites/ and memory")],
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option(help="of weights, rows and their order")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="another of PretrainRecipe's fields: hidden=80")] = None,
    config: File = None,
    json: Json = False,
) -> None:
    """Train a seed model and its student from nothing; `model.base=OUT/agent` begins from it."""
    from llmagentos.local import steps

    _tell(steps.pretrain(_config(config, overrides), out, seed, recipe or []))


@app.command()
def demo(
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="which second day of the shop")] = 1,
    visits: Annotated[int, typer.Option(help="questions of customers")] = 600,
    config: File = None,
    json: Json = False,
) -> None:
    """Two days of a shop: start, talk, learn, compare. Leaves everything running."""
    from llmagentos.local import show
    from llmagentos.local.demo import run
    from llmagentos.local.progress import Progress

    _tell(run(_config(config, overrides), seed=seed, visits=visits, say=Progress().say), show.demo)


if __name__ == "__main__":
    main()
