# SPDX-License-Identifier: Apache-2.0
"""The Deployment that Helm renders, run from its YAML by podman without a change, and asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme
import yaml

from tests.deploy.containers import Engine
from tests.deploy.helm import Manifest, one, rendered
from tests.deploy.serving import await_ready, command, tasks_answered

SMALL: Manifest = {
    "replicaCount": 1,
    "image": {"repository": "localhost/attnserve", "tag": "test", "pullPolicy": "Never"},
    "workers": 1,
}
TOKEN = "0123456789abcdef"


@contextmanager
def played(containers: Engine, folder: Path, *manifests: Manifest) -> Iterator[tuple[str, str]]:
    """Runs manifests; yields the server's container and the pod's address."""
    file = folder / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(manifests), encoding="utf-8")
    containers.podman("kube", "play", file)
    pod = json.loads(containers.podman("pod", "ps", "--format", "json"))[0]
    (server,) = (each["Names"] for each in pod["Containers"] if each["Names"].endswith("-server"))
    networks = json.loads(containers.podman("inspect", pod["InfraId"]))[0]["NetworkSettings"]["Networks"]
    try:
        yield server, next(iter(networks.values()))["IPAddress"]
    finally:
        containers.podman("pod", "rm", "--force", "--time", "0", pod["Id"])


@contextmanager
def secrets(containers: Engine, folder: Path, named: dict[str, dict[str, str]]) -> Iterator[None]:
    """Makes the Secrets of a cluster: name, files, content.

    They are made beside the YAML, for podman 4.3 mounts the data of a Secret in YAML without decoding it.
    """
    for name, files in named.items():
        (folder / name).write_text(yaml.safe_dump({"data": files}), encoding="utf-8")
        containers.podman("secret", "create", name, folder / name)
    try:
        yield
    finally:
        containers.podman("secret", "rm", *named)


def test_rendered_deployment_runs_and_answers(containers: Engine, image: str, tmp_path: Path) -> None:
    found = rendered({**SMALL, "config": "[engine]\nqueue_limit = 77\n"})
    with played(containers, tmp_path, one(found, "ConfigMap"), one(found, "Deployment")) as (server, host):
        await_ready(containers, f"{host}:8001", server)
        assert tasks_answered(containers, f"{host}:8001") >= {"translation", "caption"}
        assert containers.get(f"http://{host}:8002/healthz")[0] == 200
        status = containers.podman("exec", server, "cat", "/proc/1/status")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        assert {name: fields[name].split()[0] for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")} == {
            "Uid": "10001",
            "CapEff": "0000000000000000",
            "CapBnd": "0000000000000000",
            "NoNewPrivs": "1",
            "Seccomp": "2",
        }
        assert "Read-only file system" in containers.podman("exec", server, "touch", "/x", is_checked=False)
        settings = containers.podman(
            "exec", server, "attnserve", "serve", "--config=/etc/attnserve/config/server.toml", "--print-config"
        )
        assert "queue_limit = 77" in settings
        variables = containers.podman("exec", server, "env")
        assert "SERVICE_HOST" not in variables
        containers.podman("stop", "--time", "45", server)
        assert containers.inspect(server, ".State.ExitCode") == "0"
        assert "draining" in containers.podman("logs", server, is_checked=False)


def test_rendered_deployment_with_tls_and_tokens_serves_those_that_have_them(
    containers: Engine, image: str, tmp_path: Path
) -> None:
    ca = trustme.CA()
    certificate, client = ca.issue_cert("attnserve.test", "127.0.0.1"), ca.issue_cert("client.test")
    chain = "".join(blob.bytes().decode() for blob in certificate.cert_chain_pems)
    key, hashed = certificate.private_key_pem.bytes().decode(), hashlib.sha256(TOKEN.encode()).hexdigest()
    named = {
        "server-tls": {"tls.crt": chain, "tls.key": key},
        "clients": {"ca.crt": ca.cert_pem.bytes().decode()},
        "tokens": {"tokens.txt": f"reader {hashed} infer,read\n"},
    }
    for name, blob in {"ca": ca.cert_pem, "cert": client.cert_chain_pems[0], "key": client.private_key_pem}.items():
        blob.write_to_path(str(tmp_path / f"{name}.pem"))
    (tmp_path / "token").write_text(TOKEN, encoding="utf-8")
    trust = {"tls": {"secretName": "server-tls", "clientCaSecretName": "clients"}, "tokens": {"secretName": "tokens"}}
    deployment = one(rendered({**SMALL, **trust}), "Deployment")
    with secrets(containers, tmp_path, named), played(containers, tmp_path, deployment) as (server, host):
        await_ready(containers, f"{host}:8001", server, page=f"http://{host}:8003/healthz")
        options = [f"--{name}={tmp_path / name}.pem" for name in ("ca", "cert", "key")]
        hosts = tmp_path / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{host} attnserve.test\n", encoding="utf-8")
        containers.ask("mount", "--bind", hosts, "/etc/hosts").check_returncode()  # in the private namespace
        try:
            answer = command(
                containers, "attnserve.test:8001", "translate", "A dog runs.", f"--token-file={tmp_path / 'token'}", *options
            )
        finally:
            containers.ask("umount", "/etc/hosts")
        assert answer.strip() == "Ein Hund rennt."
        refused = containers.podman("exec", server, "attnserve", "health", is_checked=False)
        assert "not serving" in refused
