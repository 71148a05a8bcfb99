"""The manifests, offline: strict schemas, nothing named that is not there, nothing open, the Serve config builds."""

import copy
import functools
import importlib
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from llmagentos.config import load_config
from llmagentos.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
README = (K8S / "README.md").read_text("utf-8")
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "raycluster.json").read_text("utf-8"))
OVERLAYS = ("base", "overlays/laptop", "overlays/gpu")
KUBECTL = shutil.which("kubectl")


def listed(folder: str) -> dict[str, Any]:
    return yaml.safe_load((K8S / folder / "kustomization.yaml").read_text("utf-8"))


def base() -> list[dict[str, Any]]:
    files = [K8S / "base" / name for name in listed("base")["resources"]]
    # through JSON, so that what an anchor names twice is two things, as it is for kubectl
    return json.loads(json.dumps([one for file in files for one in yaml.safe_load_all(file.read_text("utf-8"))]))


@functools.cache
def build(folder: str) -> list[dict[str, Any]]:
    """What kubectl would apply; without kubectl the base as it stands in its files."""
    if not KUBECTL:
        if folder != "base":
            pytest.skip("overlays are built by kubectl, which is not here")
        return base()
    done = subprocess.run([KUBECTL, "kustomize", str(K8S / folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(params=OVERLAYS)
def resources(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return copy.deepcopy(build(request.param))


def one(resources: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    [found] = [r for r in resources if (r["kind"], r["metadata"]["name"]) == (kind, name)]
    return found


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping inside of a value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def templates(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every pod template, of Kubernetes' kinds and of KubeRay's."""
    keys = ("template", "submitterPodTemplate")
    inner = [m[key] for m in walk(resources) for key in keys if "containers" in m.get(key, {}).get("spec", {})]
    assert len(inner) >= 6
    return inner


def clusters(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m[key] for m in walk(resources) for key in ("rayClusterConfig", "rayClusterSpec") if key in m]


def check_ray(resource: dict[str, Any]) -> None:
    schema = {"$ref": f"#/$defs/{resource['kind']}", "$defs": SCHEMA["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(resource)


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_file_is_listed_and_every_listed_file_is_there(folder: str):
    found = listed(folder)
    names = [*found["resources"], *(patch["path"] for patch in found.get("patches", []))]
    assert [name for name in names if not (K8S / folder / name).exists()] == []
    there = {path.name for path in (K8S / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert there - {Path(name).name for name in names} == set()


def test_what_kubernetes_knows_fits_its_schema(resources: list[dict[str, Any]]):
    for resource in resources:
        if not resource["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(resource, "1.37", strict=True)


def test_what_kuberay_knows_fits_the_fields_we_use(resources: list[dict[str, Any]]):
    ours = [r for r in resources if r["apiVersion"].startswith("ray.io/")]
    assert {r["kind"] for r in ours} == {"RayService", "RayJob"}
    for resource in ours:
        check_ray(resource)


def test_pod_templates_inside_of_kuberays_kinds_fit_kubernetes_schema(resources: list[dict[str, Any]]):
    for number, template in enumerate(templates(resources)):
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": f"t{number}"}, "template": template}
        kubernetes_validate.validate(wrapped, "1.37", strict=True)


def test_the_checks_see_a_misspelt_field():
    service = one(base(), "RayService", "agent")
    wrong = copy.deepcopy(service)
    wrong["spec"]["serveConfigv2"] = wrong["spec"].pop("serveConfigV2")
    with pytest.raises(jsonschema.ValidationError):
        check_ray(wrong)
    template = copy.deepcopy(service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"])
    template["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": template}, "1.37", strict=True
        )


def test_everything_is_in_the_namespace_and_there_once(resources: list[dict[str, Any]]):
    if KUBECTL:
        assert {r["metadata"].get("namespace") for r in resources if r["kind"] != "Namespace"} == {"llmagentos"}
    names = [(r["kind"], r["metadata"]["name"]) for r in resources]
    assert len(set(names)) == len(names)
    kinds = {kind for kind, _ in names}
    wanted = "Namespace ServiceAccount RayService RayJob CronJob Deployment StatefulSet NetworkPolicy"
    assert set(wanted.split()) <= kinds
    assert "Secret" not in kinds


def test_what_is_named_is_defined(resources: list[dict[str, Any]]):
    there = {(r["kind"], r["metadata"]["name"]) for r in resources}
    wanted = set()
    for mapping in walk(resources):
        wanted |= {("ServiceAccount", mapping["serviceAccountName"])} if "serviceAccountName" in mapping else set()
        wanted |= {("PersistentVolumeClaim", mapping["claimName"])} if "claimName" in mapping else set()
        for key in ("configMap", "configMapRef", "configMapKeyRef"):
            wanted |= {("ConfigMap", mapping[key]["name"])} if key in mapping else set()
        wanted |= {("Service", mapping["serviceName"])} if "serviceName" in mapping else set()
    assert len(wanted) >= 4
    assert wanted - there == set()


def test_pods_mount_only_volumes_they_have(resources: list[dict[str, Any]]):
    claimed = {c["metadata"]["name"] for m in walk(resources) for c in m.get("volumeClaimTemplates", [])}
    for template in templates(resources):
        names = {volume["name"] for volume in template["spec"].get("volumes", [])} | claimed
        mounts = [mount["name"] for c in template["spec"]["containers"] for mount in c.get("volumeMounts", [])]
        assert [name for name in mounts if name not in names] == []


def test_whatever_mounts_the_root_runs_where_the_head_runs(resources: list[dict[str, Any]]):
    """It can be mounted on one node only: a second head of an upgrade has to come up there too."""
    found = 0
    for template in templates(resources):
        spec = template["spec"]
        if any(v.get("persistentVolumeClaim", {}).get("claimName") == "agent-root" for v in spec.get("volumes", [])):
            [term] = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert term["labelSelector"]["matchLabels"] == {"llmagentos.io/ray": "head"}
            found += 1
    assert found >= 2


def test_nothing_holds_up_a_drain(resources: list[dict[str, Any]]):
    """The agent's pods cannot be anywhere else, so that a budget of disruptions would keep the node for ever."""
    assert [r["kind"] for r in resources if r["kind"] == "PodDisruptionBudget"] == []


def test_the_readme_tells_how_to_make_every_secret(resources: list[dict[str, Any]]):
    wanted = {(m["secretKeyRef"]["name"], m["secretKeyRef"]["key"]) for m in walk(resources) if "secretKeyRef" in m}
    wanted |= {(m["secretName"], "auth_token") for m in walk(resources) if "secretName" in m}
    told = set(re.findall(r"create secret generic ([\w-]+) --from-literal=(\w+)=", README))
    assert told == wanted
    assert len(wanted) == 3


def test_no_secret_stands_in_a_manifest(resources: list[dict[str, Any]]):
    secret = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET)$")
    plain = [m for m in walk(resources) if secret.search(str(m.get("name", ""))) and "value" in m]
    assert plain == []


def test_no_pod_may_more_than_it_needs(resources: list[dict[str, Any]]):
    for template in templates(resources):
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 999
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_what_stays_up_is_probed(resources: list[dict[str, Any]]):
    for kind, name in (("RayService", "agent"), ("Deployment", "mlflow"), ("StatefulSet", "postgres")):
        for template in [
            m["template"] for m in walk(one(resources, kind, name)) if "containers" in m.get("template", {}).get("spec", {})
        ]:
            for container in template["spec"]["containers"]:
                assert container.keys() >= {"readinessProbe", "livenessProbe"}


def test_nobody_is_let_in_by_default_and_rays_ports_need_a_name(resources: list[dict[str, Any]]):
    policies = [r for r in resources if r["kind"] == "NetworkPolicy"]
    assert [p["spec"] for p in policies if p["spec"]["podSelector"] == {}] == [{"podSelector": {}, "policyTypes": ["Ingress"]}]
    labels = {tuple(label) for t in templates(resources) for label in t["metadata"]["labels"].items()}
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"]
        for mapping in walk(policy["spec"]):
            for label in mapping.get("matchLabels", {}).items():
                assert label in labels or label[0] in ("llmagentos.io/client", "kubernetes.io/metadata.name")
            if "operator" in mapping:
                assert {(mapping["key"], value) for value in mapping["values"]} <= labels
    rules = [rule for policy in policies for rule in policy["spec"].get("ingress", [])]
    wide = [rule for rule in rules if {"podSelector": {}} in rule["from"]]
    assert [[port["port"] for port in rule["ports"]] for rule in wide] == [[8000]]


def test_labels_of_selectors_are_labels_of_pods(resources: list[dict[str, Any]]):
    for kind, name in (("Deployment", "mlflow"), ("StatefulSet", "postgres")):
        spec = one(resources, kind, name)["spec"]
        service = one(resources, "Service", name)["spec"]
        labels = spec["template"]["metadata"]["labels"].items()
        assert spec["selector"]["matchLabels"].items() <= labels
        assert service["selector"].items() <= labels
        ports = {port["name"] for container in spec["template"]["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["ports"]} <= ports


def test_ray_and_the_image_have_the_pinned_versions(resources: list[dict[str, Any]]):
    pins = dict(line.split("==") for line in (ROOT / "cluster" / "constraints.txt").read_text("utf-8").split())
    assert [cluster["rayVersion"] for cluster in clusters(resources)] == [pins["ray"]] * 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert listed("base")["images"][0]["newTag"] == project["version"]


def test_jobs_run_a_script_that_the_image_has(resources: list[dict[str, Any]]):
    nightly = one(resources, "CronJob", "cycle-nightly")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    commands = [" ".join(nightly["command"]), one(resources, "RayJob", "cycle-once")["spec"]["entrypoint"]]
    assert one(resources, "RayJob", "cycle-once")["spec"]["suspend"] is True
    for command in commands:
        [script] = re.findall(r"/opt/llmagentos/(\S+\.py)", command)
        assert (ROOT / script).is_file()
        assert "COPY jobs /opt/llmagentos/jobs" in (ROOT / "cluster" / "Dockerfile").read_text("utf-8")
        assert "/etc/llmagentos/config.yaml" in command


def test_the_serve_config_builds_and_refuses_to_be_open_without_a_key(
    resources: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ray.serve.schema import ServeDeploySchema

    service = one(resources, "RayService", "agent")
    written = yaml.safe_load(service["spec"]["serveConfigV2"])
    declared = ServeDeploySchema.model_validate(written)
    [application] = declared.applications
    # Ray drops keys it does not know
    assert written.keys() <= ServeDeploySchema.model_fields.keys()
    assert written["applications"][0].keys() <= type(application).model_fields.keys()
    assert written["http_options"].keys() <= type(declared.http_options).model_fields.keys()
    module, _, name = application.import_path.partition(":")
    builder = getattr(importlib.import_module(module), name)

    text = one(resources, "ConfigMap", "agent-config")["data"]["config.yaml"]
    file = tmp_path / "config.yaml"
    file.write_text(text)
    config = load_config(file, environment={})
    assert (config.serve.host, config.serve.port) == (declared.http_options.host, declared.http_options.port)
    ports = {port["containerPort"] for m in walk(service) for port in m.get("ports", [])}
    assert config.serve.port in ports

    mounts = {mount["mountPath"] for m in walk(service) for mount in m.get("volumeMounts", [])}
    assert str(Path(application.args["config"]).parent) in mounts
    args = application.args | {"config": str(file), "overrides": [f"storage.root={tmp_path / 'home'}"]}
    with pytest.raises(ConfigError, match="LLMAGENTOS_API_KEY"):
        builder(args)
    with monkeypatch.context() as patch:
        patch.setenv("LLMAGENTOS_API_KEY", "only-for-this-test")
        assert builder(args)


def test_mlflow_is_found_under_the_name_it_answers_to(resources: list[dict[str, Any]]):
    [args] = [c["args"] for c in one(resources, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]]
    hosts = next(a for a in args if a.startswith("--allowed-hosts=")).partition("=")[2].split(",")
    assert {f"{host}:5000" for host in hosts if ":" not in host} == {host for host in hosts if ":" in host}
    assert {"localhost:5000", "127.0.0.1:5000"} <= set(hosts), "what `kubectl port-forward` prints"
    config = yaml.safe_load(one(resources, "ConfigMap", "agent-config")["data"]["config.yaml"])
    assert config["registry"]["tracking_uri"].removeprefix("http://") in hosts
