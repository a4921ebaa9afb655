# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_loadtest.bench.trust``: processor time of the front for a call, with TLS, client certificates and tokens.

Servers with an answer cache answer the same texts, so a call costs little but its transport. All servers run at the same time and
are asked in turns; the figure is the median over rounds, with quartiles, of the difference to the plain server. A new connection is
measured apart: its handshake is the cost of TLS that a call on an open connection does not have.
"""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry

from attnserve_client.demo.server import DemoServer
from attnserve_client.security import Security
from attnserve_loadtest import texts
from attnserve_loadtest.bench.against import alone
from attnserve_loadtest.bench.processor import front_seconds
from attnserve_loadtest.bench.rounds import interleave
from attnserve_loadtest.bench.servers import UNARY, address_of, closed_loop, quiet
from attnserve_server.config_trust import TlsConfig, TokensConfig
from attnserve_server.dataplane.call import Call
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.transport.tokens import Scope
from attnserve_server.transport.trust import Trust

MODEL = Path(__file__).resolve().parents[3] / "deploy" / "models" / "transformer-en-de" / "1"
PLAIN = "plain"
CLIENTS = 8
NUM_TEXTS = 32
TOKEN = "token-of-the-bench"


@dataclass(frozen=True, slots=True)
class Side:
    """A server's flags, and the files of its clients."""

    flags: tuple[str, ...] = ()
    security: Security = Security()  # noqa: RUF009 - frozen


def sides(folder: Path) -> dict[str, Side]:
    """Returns the sides by name; writes the files that they need."""
    import trustme

    ca = trustme.CA()
    server, client = ca.issue_cert("127.0.0.1"), ca.issue_cert("robot@example.org")
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    contents = {
        "ca.pem": ca.cert_pem.bytes(),
        "server.pem": server.cert_chain_pems[0].bytes(),
        "server.key": server.private_key_pem.bytes(),
        "client.pem": client.cert_chain_pems[0].bytes(),
        "client.key": client.private_key_pem.bytes(),
        "token": TOKEN.encode(),
        "tokens": f"bench {digest} infer 1000000\n".encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    of = {name: str(folder / name) for name in contents}
    tls = ("--tls-cert", of["server.pem"], "--tls-key", of["server.key"])
    tokens = ("--tokens", of["tokens"])
    mutual = Security(of["ca.pem"], of["client.pem"], of["client.key"])
    return {
        PLAIN: Side(),
        "token": Side(tokens, Security(token_file=of["token"])),
        "TLS": Side(tls, Security(of["ca.pem"])),
        "mTLS": Side((*tls, "--tls-client-ca", of["ca.pem"]), mutual),
        "TLS and token": Side((*tls, *tokens), Security(of["ca.pem"], token_file=of["token"])),
    }


def trust(
    rounds: Annotated[int, typer.Option(min=2, help="Interleaved rounds.")] = 21,
    calls: Annotated[int, typer.Option(min=NUM_TEXTS, help="Calls on an open connection, in each round.")] = 4000,
    connections: Annotated[int, typer.Option(min=10, help="New connections with one call each, in each round.")] = 100,
) -> None:
    """Print the processor time of a call and of a connection, in microseconds, and its difference to the plain server."""
    sentences = texts.sentences(None)[:NUM_TEXTS]
    asked = [sentences[number % len(sentences)] for number in range(calls)]
    with tempfile.TemporaryDirectory() as name, alone(MODEL) as models, contextlib.ExitStack() as stack, quiet():
        runs: dict[str, Callable[[], float]] = {}
        flags = ("--models", str(models), "--workers", "1", "--log-level", "warning", "--cache-bytes", "10000000")
        for side_name, side in sides(Path(name)).items():
            server = stack.enter_context(DemoServer((*flags, *side.flags)))
            address = address_of(server)
            closed_loop(address, asked, UNARY, CLIENTS, security=side.security)  # fills the cache

            def ask(server: DemoServer = server, address: str = address, security: Security = side.security) -> float:
                before = front_seconds(server.pid)
                closed_loop(address, asked, UNARY, CLIENTS, security=security)
                return (front_seconds(server.pid) - before) / calls

            def connect(server: DemoServer = server, address: str = address, security: Security = side.security) -> float:
                before = front_seconds(server.pid)
                for text in asked[:connections]:
                    closed_loop(address, [text], UNARY, 1, security=security)
                return (front_seconds(server.pid) - before) / connections

            runs[f"{side_name}, a call"], runs[f"{side_name}, a connection"] = ask, connect
        values = interleave(runs, rounds, lambda: None)
    _print(values)
    print(f"{'check of a token alone':32}{1e6 * check_seconds():8.1f}")


def check_seconds(num_checks: int = 20_000) -> float:
    """Processor time of the check of one call with a token and a rate, in seconds, without transport."""
    with tempfile.TemporaryDirectory() as name:
        sides(Path(name))
        checking = Trust(TlsConfig(), TokensConfig(file=str(Path(name, "tokens"))), Metrics(CollectorRegistry()).trust)
        call, metadata = Call("id"), (("user-agent", "bench"), ("authorization", f"Bearer {TOKEN}"))
        began = time.process_time()
        for _ in range(num_checks):
            checking.access.check(call, None, metadata, Scope.INFER)
        return (time.process_time() - began) / num_checks


def _print(values: Mapping[str, list[float]]) -> None:
    print(f"{'':32}{'µs':>8}{'more than plain, µs (quartiles)':>40}")
    for key, seconds in values.items():
        base = values[f"{PLAIN}, {key.rpartition(', ')[2]}"]
        low, middle, high = statistics.quantiles((1e6 * (own - plain) for own, plain in zip(seconds, base, strict=True)), n=4)
        spread = f"{middle:8.0f} ({low:.0f}, {high:.0f})"
        print(f"{key:32}{1e6 * statistics.median(seconds):8.0f}{spread:>40}")


if __name__ == "__main__":
    typer.run(trust)
