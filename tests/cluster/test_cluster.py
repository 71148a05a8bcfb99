"""What cluster/ ships is valid: pins, the cluster file, the Serve config, the image, the scripts."""

import json
import re
import subprocess
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llmagentos.local.ingress import HEALTH, WORDS

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PINS = dict(line.split("==") for line in (CLUSTER / "constraints.txt").read_text("utf-8").split())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_pins_are_exact_sorted_and_of_no_particular_build():
    lines = (CLUSTER / "constraints.txt").read_text("utf-8").splitlines()
    assert lines == sorted(lines)
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.!]*", line)] == []
    assert len(PINS) == len(lines)


@pytest.mark.parametrize("extra", ["", "test", "postgres"])
def test_everything_asked_for_is_pinned_to_what_it_may_be(extra: str):
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement


def test_this_environment_is_the_pinned_one():
    installed = metadata.distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])  # not setuptools' own
    found = {canonicalize_name(one.name): one.version.partition("+")[0] for one in installed}
    assert {name: found[name] for name in PINS.keys() & found.keys() if found[name] != PINS[name]} == {}
    assert {canonicalize_name(Requirement(one).name) for one in PROJECT["dependencies"]} <= found.keys()


def test_what_the_environment_pulls_in_is_pinned():
    """Every requirement of a pinned package that applies here is pinned too."""
    missing = set()
    for one in metadata.distributions():
        if canonicalize_name(one.name) not in PINS:
            continue
        for requirement in map(Requirement, one.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                missing |= {canonicalize_name(requirement.name)} - PINS.keys()
    # torch's CUDA build brings its own libraries, which carry its version
    assert {name for name in missing if not name.startswith(("nvidia-", "cuda-", "triton"))} == set()


def test_the_cluster_file_fits_rays_schema():
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text("utf-8"))
    cluster = yaml.safe_load((CLUSTER / "autoscaling.yaml").read_text("utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(cluster)
    assert not validator.is_valid(cluster | {"max_worker": 1})
    assert cluster["head_node_type"] in cluster["available_node_types"]
    assert sum(kind.get("max_workers", 0) for kind in cluster["available_node_types"].values()) <= cluster["max_workers"]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        [start] = [command for command in cluster[commands] if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
        assert "0.0.0.0" not in start


def test_the_serve_config_fits_rays_schema_and_builds():
    from ray.serve.schema import ServeDeploySchema

    from llmagentos.serve.app import build

    written = yaml.safe_load((CLUSTER / "serve.yaml").read_text("utf-8"))
    declared = ServeDeploySchema.model_validate(written)
    [application] = declared.applications
    # Ray drops keys it does not know
    assert written.keys() <= ServeDeploySchema.model_fields.keys()
    assert written["applications"][0].keys() <= type(application).model_fields.keys()
    assert written["http_options"].keys() <= type(declared.http_options).model_fields.keys()
    assert written["logging_config"].keys() <= type(declared.logging_config).model_fields.keys()
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    assert build(application.args)._bound_deployment.ray_actor_options["resources"] == {"spool": 0.001}
    assert '"spool":1' in (CLUSTER / "autoscaling.yaml").read_text("utf-8")
    assert declared.http_options.host == "127.0.0.1"
    assert f"serve.port={declared.http_options.port}" in application.args["overrides"]


def test_what_is_deployed_and_run_on_the_head_is_in_the_image():
    text, readme = ((CLUSTER / name).read_text("utf-8") for name in ("Dockerfile", "README.md"))
    last = text[text.rindex("FROM ") :]
    held = {target.rstrip("/"): source for source, target in re.findall(r"^COPY (\S+) (/opt/llmagentos\S*)$", last, re.MULTILINE)}
    named = [Path(found) for found in re.findall(r"/opt/llmagentos/[\w/.]*\w", readme)]
    assert {path.name for path in named} == {"serve.yaml", "cycle.py"}
    for path in named:
        source = ROOT / held[str(path.parent)]
        assert (source if source.is_file() else source / path.name).is_file()
        assert source.name in (path.name, path.parent.name)


def test_the_image_is_pinned_rootless_and_gets_no_secret():
    text = (CLUSTER / "Dockerfile").read_text("utf-8")
    last = text[text.rindex("FROM ") :]
    assert re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    assert "--constraint cluster/constraints.txt" in text
    assert not re.search(r"(KEY|TOKEN|PASSWORD|SECRET)\s*=", text)
    assert not re.search(r"^ADD |curl .*\| *sh", text, re.MULTILINE)
    copied = [source for line in re.findall(r"^COPY (?!--from)(.+)", text, re.MULTILINE) for source in line.split()[:-1]]
    assert [source for source in copied if not (ROOT / source).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignored
    assert {source.split("/")[0] for source in copied} <= {line.removeprefix("!") for line in ignored}
    assert dict(re.findall(r"^ +(RAY_(?!USAGE)\w+)=(\S+)", last, re.MULTILINE)) == {**HEALTH, **WORDS}


def test_vllms_script_holds_what_is_pinned():
    text = (CLUSTER / "install_vllm.sh").read_text("utf-8")
    [held] = re.findall(r"\^\(([a-z0-9|]+)\)==", text)
    assert {"ray", "torch"} <= set(held.split("|")) <= set(PINS)


@pytest.mark.parametrize("script", ["cluster/start.sh", "cluster/install_vllm.sh", ".ci/run"])
def test_a_script_parses_and_can_be_run(script: str):
    path = ROOT / script
    shell = path.read_text("utf-8").splitlines()[0].split()[-1].split("/")[-1]
    assert subprocess.run([shell, "-n", str(path)], check=False, timeout=30).returncode == 0
    assert path.stat().st_mode & 0o111


def test_start_takes_paths_as_its_caller_means_them(tmp_path: Path):
    start, program = tmp_path / "checkout" / "cluster" / "start.sh", tmp_path / "checkout" / ".venv" / "bin" / "llmagentos"
    for path, text in ((start, (CLUSTER / "start.sh").read_text("utf-8")), (program, '#!/bin/sh\necho "$PWD" "$@"\n')):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    here = tmp_path / "my settings"
    here.mkdir()
    told = [str(start), "--config", "mine.yaml"]
    done = subprocess.run(told, cwd=here, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"{here} up --detach --config mine.yaml\n"
