# SPDX-License-Identifier: Apache-2.0
"""The chart: linted and rendered by Helm, its manifests checked strictly, and what it promises."""

from __future__ import annotations

import copy
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from attnserve_server.config import variables
from tests.deploy.containers import ROOT
from tests.deploy.helm import CHART, KUBERNETES, Manifest, custom_faults, faults, helm, one, rendered

TRUST: Manifest = {"tls": {"secretName": "server-tls", "clientCaSecretName": "clients"}, "tokens": {"secretName": "tokens"}}
CASES: dict[str, Manifest] = {
    "defaults": {},
    "all": {
        **TRUST,
        "gpu": {"enabled": True, "count": 2, "runtimeClassName": "nvidia"},
        "config": "[engine]\nqueue_limit = 64\n",
        "models": {"existingClaim": "bundles"},
        "autoscaling": {"enabled": True},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "podDisruptionBudget": {"maxUnavailable": "20%"},
        "topologySpread": {"whenUnsatisfiable": "DoNotSchedule"},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"pool": "models"},
        "tolerations": [{"key": "models", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "podLabels": {"team": "models"},
        "podAnnotations": {"a": "b"},
    },
    "keda": {"keda": {"enabled": True}, "serviceMonitor": {"enabled": True}},
    "few": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "topologySpread": {"enabled": False},
    },
}


@pytest.fixture(scope="module")
def manifests() -> dict[str, list[Manifest]]:
    """The manifests of every case, which are not to be changed."""
    return {name: rendered(values) for name, values in CASES.items()}


def pod(found: list[Manifest]) -> Any:
    return one(found, "Deployment")["spec"]["template"]["spec"]


def environment_of(found: list[Manifest]) -> dict[str, str]:
    (container,) = pod(found)["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


@pytest.mark.parametrize("case", CASES)
def test_helm_lints_without_a_finding(case: str) -> None:
    found = helm(CASES[case])
    assert found["version"].startswith("v4."), found["version"]
    assert (found["lint"], found["error"]) == ([], "")


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
def test_every_manifest_passes_the_schemas_strictly(manifests: dict[str, list[Manifest]], case: str, version: str) -> None:
    assert faults(manifests[case], version) == []


@pytest.mark.parametrize("case", CASES)
def test_every_custom_manifest_passes_its_schema(manifests: dict[str, list[Manifest]], case: str) -> None:
    assert custom_faults(manifests[case]) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda each: each["spec"].update(replicas="x"), "replicas"),
        (lambda each: each["spec"]["template"]["spec"].update(enableServiceLink=False), "enableServiceLink"),
        (lambda each: each.update(kind="Deploymint"), "Deploymint"),
        (lambda each: each.update(apiVersion="apps/v2"), "apps/v2"),
    ],
)
def test_fault_of_a_manifest_is_seen(manifests: dict[str, list[Manifest]], change: Any, problem: str) -> None:
    planted = copy.deepcopy(manifests["defaults"])
    change(one(planted, "Deployment"))
    assert problem in str(faults(planted, KUBERNETES[0]))


def test_fault_of_a_custom_manifest_is_seen(manifests: dict[str, list[Manifest]]) -> None:
    planted = copy.deepcopy(manifests["all"] + manifests["keda"])
    one(planted[: len(manifests["all"])], "ServiceMonitor")["spec"]["endpoints"][0]["interval"] = "15 s"
    del one(planted, "ScaledObject")["spec"]["scaleTargetRef"]
    assert len(custom_faults(planted)) == 2
    unknown = [{"apiVersion": "monitoring.coreos.com/v2", "kind": "ServiceMonitor", "metadata": {"name": "x"}}]
    assert custom_faults(unknown) == ["monitoring.coreos.com/v2 ServiceMonitor: no schema"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"replicaCount": 0}, "replicaCount"),
        ({"replicas": 2}, "replicas"),
        ({"gpu": {"enable": True}}, "enable"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"serviceMonitor": {"interval": "15 s"}}, "interval"),
        ({"tls": {"clientCaSecretName": "clients"}}, "needs tls.secretName"),
        ({"autoscaling": {"enabled": True}, "keda": {"enabled": True}}, "exclude each other"),
        ({"networkPolicy": {"clients": []}}, "clients"),
        ({"trace": {"endpoint": "otel-collector:4317"}}, "endpoint"),
        ({"trace": {"sampleRatio": 2}}, "sampleRatio"),
    ],
)
def test_wrong_values_are_refused(values: Manifest, problem: str) -> None:
    assert problem in helm(values)["error"]


def test_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (chart["name"], chart["version"], chart["appVersion"]) == (project["name"], project["version"], project["version"])


def test_checkout_without_links_is_seen(tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "attnserve")
    (chart / "files/rules.yml").write_text("../../../prometheus/rules.yml", encoding="utf-8")
    assert "check out with symbolic links" in helm({"prometheusRule": {"enabled": True}}, chart)["error"]
    assert helm({}, chart)["error"] == ""


def test_lint_sees_a_fault(tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "attnserve")
    (chart / "templates/broken.yaml").write_text("a: [{{ .Values.replicaCount }}\n", encoding="utf-8")
    assert "broken.yaml" in str(helm({}, chart)["lint"])


def test_pod_has_no_privileges_and_no_credentials_of_the_cluster(manifests: dict[str, list[Manifest]]) -> None:
    for found in manifests.values():
        spec = pod(found)
        assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
        assert one(found, "ServiceAccount")["automountServiceAccountToken"] is False
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]) == (True, 10001)
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_time_to_end_is_longer_than_stop_hook_and_drain() -> None:
    found = rendered({"drainSeconds": 90, "preStopSeconds": 7})
    (container,) = pod(found)["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert environment_of(found)["ATTNSERVE_DRAIN_SECONDS"] == "90"
    assert pod(found)["terminationGracePeriodSeconds"] == 107


def test_every_variable_of_the_pod_is_a_setting(manifests: dict[str, list[Manifest]]) -> None:
    for found in manifests.values():
        assert environment_of(found).keys() <= variables().keys()


def test_services_say_that_they_speak_http2(manifests: dict[str, list[Manifest]]) -> None:
    ports = one(manifests["defaults"], "Service", "demo-attnserve")["spec"]["ports"]
    assert {port["name"]: port["appProtocol"] for port in ports} == {"grpc": "kubernetes.io/h2c", "http": "http"}
    headless = one(manifests["defaults"], "Service", "-headless")["spec"]
    assert (headless["clusterIP"], [port["appProtocol"] for port in headless["ports"]]) == ("None", ["kubernetes.io/h2c"])


def test_probes_are_grpc_and_with_tls_pages_on_the_plain_port(manifests: dict[str, list[Manifest]]) -> None:
    names = ("startupProbe", "readinessProbe", "livenessProbe")
    for case, key, wanted in (("defaults", "grpc", {"port": 8001}), ("all", "httpGet", {"path": "/healthz", "port": "plain"})):
        (container,) = pod(manifests[case])["containers"]
        assert [container[name][key] for name in names] == [wanted] * 3
    (http,) = (port for port in one(manifests["all"], "Service", "demo-attnserve")["spec"]["ports"] if port["name"] == "http")
    assert http["targetPort"] == "plain"
    assert environment_of(manifests["all"])["ATTNSERVE_HTTP_PLAIN_PORT"] == "8003"


def test_secrets_are_mounted_where_the_settings_look(manifests: dict[str, list[Manifest]]) -> None:
    spec, environment = pod(manifests["all"]), environment_of(manifests["all"])
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    secrets = {volume["secret"]["secretName"]: mounts[volume["name"]] for volume in spec["volumes"] if "secret" in volume}
    assert secrets == {
        "server-tls": str(Path(environment["ATTNSERVE_TLS_CERTIFICATE"]).parent),
        "clients": str(Path(environment["ATTNSERVE_TLS_CLIENT_CA"]).parent),
        "tokens": str(Path(environment["ATTNSERVE_TOKENS_FILE"]).parent),
    }


def test_one_value_makes_servers_for_gpus(manifests: dict[str, list[Manifest]]) -> None:
    assert "nvidia" not in str(manifests["defaults"])
    found = rendered({"gpu": {"enabled": True}})
    (container,) = pod(found)["containers"]
    assert container["image"].endswith("-gpu")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["resources"]["limits"]["memory"]
    assert environment_of(found)["ATTNSERVE_ENGINE_DEVICE"] == "cuda"
    assert pod(found)["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_autoscalers_follow_the_queue_in_seconds_and_own_the_number_of_pods(manifests: dict[str, list[Manifest]]) -> None:
    (metric,) = one(manifests["all"], "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "attnserve_queue_seconds"
    (trigger,) = one(manifests["keda"], "ScaledObject")["spec"]["triggers"]
    assert 'attnserve_queue_seconds{namespace="models", service="demo-attnserve"}' in trigger["metadata"]["query"]
    for case in ("all", "keda"):
        assert "replicas" not in one(manifests[case], "Deployment")["spec"]


def test_rules_are_those_of_prometheus(manifests: dict[str, list[Manifest]]) -> None:
    committed = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text(encoding="utf-8"))
    assert one(manifests["all"], "PrometheusRule")["spec"] == committed
    assert committed["groups"]


def test_scraped_jobs_have_a_name_that_the_rules_look_for(manifests: dict[str, list[Manifest]]) -> None:
    monitor, service = one(manifests["all"], "ServiceMonitor"), one(manifests["all"], "Service", "demo-attnserve")
    assert "attnserve" in service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    headless = one(manifests["all"], "Service", "-headless")
    assert {port["name"] for port in headless["spec"]["ports"]} == {"grpc"}, "or Prometheus finds each pod twice"


def test_server_may_be_reached_at_two_ports_and_reaches_nothing(manifests: dict[str, list[Manifest]]) -> None:
    for case, pages in (("defaults", "http"), ("all", "plain")):
        policy = one(manifests[case], "NetworkPolicy")["spec"]
        assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])
        assert [rule["ports"] for rule in policy["ingress"]] == [[{"protocol": "TCP", "port": name}] for name in ("grpc", pages)]


def test_traces_may_reach_their_receiver() -> None:
    found = rendered({"trace": {"endpoint": "http://otel-collector.observability:4317", "sampleRatio": 0.01}})
    environment = environment_of(found)
    assert environment["ATTNSERVE_TRACE_ENDPOINT"] == "http://otel-collector.observability:4317"
    assert environment["ATTNSERVE_TRACE_SAMPLE_RATIO"] == "0.01"
    ((rule,),) = (one(found, "NetworkPolicy")["spec"]["egress"],)
    assert rule["ports"] == [
        {"protocol": "TCP", "port": 4317},
        {"protocol": "UDP", "port": 53},
        {"protocol": "TCP", "port": 53},
    ]


def test_selectors_find_the_pods(manifests: dict[str, list[Manifest]]) -> None:
    for found in manifests.values():
        labels = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
        for each in found:
            selector = each["spec"].get("selector", {}) if each["kind"] in ("Service", "Deployment", "PodDisruptionBudget") else {}
            assert selector.get("matchLabels", selector).items() <= labels.items(), each["kind"]


def test_another_configuration_starts_new_pods() -> None:
    def checksum(config: str) -> str:
        annotations = one(rendered({"config": config}), "Deployment")["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    assert checksum("max_text_chars = 100\n") != checksum("max_text_chars = 200\n")
