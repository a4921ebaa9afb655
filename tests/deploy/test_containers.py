# SPDX-License-Identifier: Apache-2.0
"""A container that has ended leaves nothing in the network that the containers of all tests share."""

from __future__ import annotations

import subprocess

from tests.deploy.containers import BASE, Engine, eventually


def left(containers: Engine) -> list[str]:
    """Rules of published ports, and bridges."""
    command = containers.command("iptables-save", "--table", "nat")
    rules = subprocess.run(command, env=containers.environment, capture_output=True, text=True, check=True).stdout.splitlines()
    links = containers.ask("ip", "-brief", "link", "show", "type", "bridge").stdout.splitlines()
    return [rule for rule in rules if "--to-destination" in rule] + links


def test_container_that_ends_by_itself_leaves_no_rule_and_no_bridge(containers: Engine) -> None:
    containers.podman("run", "--detach", "--name", "published", "--publish", "8005:8001", BASE, "sleep", "infinity")
    assert len(left(containers)) == 2, left(containers)
    containers.podman("kill", "published")
    eventually(lambda: left(containers) == [], "the cleanup that conmon starts", 30)
    containers.podman("rm", "published")
