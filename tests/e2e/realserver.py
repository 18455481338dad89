"""A real livekit-server as a child process: configuration, life, and what its log says.

It listens on loopback only and names no public STUN server, so nothing leaves the machine.  It is ended with SIGKILL:
SIGTERM waits for participants to leave.  The log, one JSON object per line, is its only record of how a job ended.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

VERSION = "1.13.5"
KEY = "devkey"
SECRET = "secretsecretsecretsecretsecret32"
HOW_TO_GET_IT = (
    f"no livekit-server: set LIVEKIT_SERVER or put `livekit-server` on PATH; to build it: "
    f"CGO_ENABLED=0 go install github.com/livekit/livekit-server/cmd/server@v{VERSION} (100 s once)"
)
NO_INTERFACE = (
    "no network interface besides loopback is up with an IPv4 address: libwebrtc would fail each join after 15 s; "
    "run `python tests/e2e/netns.py pytest …`, or bring an interface up (an empty bridge will do)"
)

CONFIG = """\
port: {port}
bind_addresses: ["{address}"]
keys: {{{key}: {secret}}}
rtc:
  tcp_port: {tcp_port}
  udp_port: {udp_port}
  use_external_ip: false
  node_ip: {address}
  enable_loopback_candidate: {loopback}
  interfaces: {{includes: [{interface}]}}
  stun_servers: ["127.0.0.1:9"]
room: {{empty_timeout: 300, departure_timeout: 20}}
agents: {{target_load: 0.7}}
enable_participant_data_blob: true
logging: {{level: debug, json: true}}
{more}"""


def find_server() -> str | None:
    """The binary, or None."""
    named = os.environ.get("LIVEKIT_SERVER")
    return shutil.which(named) if named else shutil.which("livekit-server")


def must_be_there() -> bool:
    """In CI a missing server is a failure, elsewhere a skip with the reason."""
    return os.environ.get("CI") == "true" or os.environ.get("LIVEKIT_AGENT_REQUIRE_SERVER") == "1"


def skip_or_fail(reason: str) -> None:
    """Say why this test cannot run: a skip at home, a failure in CI."""
    if must_be_there():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def usable_interface() -> bool:
    """Whether libwebrtc will find an interface: up, not loopback, with an IPv4 address."""
    states = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        state = states.get(name)
        if state is None or not state.isup or "loopback" in state.flags:
            continue
        if any(address.family == socket.AF_INET for address in addresses):
            return True
    return False


_ports = itertools.cycle(range(2_000))


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody listens on, nor takes before it is used.

    It is below those that the kernel gives to clients, each is given out once, and each process of a parallel run has
    its own.
    """
    first = 12_000 + 2_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = first + next(_ports)
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class RealServer:
    """One livekit-server process, its address and its log.  ``start`` and ``kill`` may alternate; the ports stay."""

    api_key = KEY
    api_secret = SECRET

    def __init__(
        self,
        binary: str,
        directory: Path,
        *,
        name: str = "livekit-server",
        address: str = "127.0.0.1",
        interface: str = "lo",
        inside: Sequence[str] = (),
        more: str = "",
    ) -> None:
        """``inside`` goes before the command, to run it elsewhere; ``more`` is configuration for the file's end."""
        self._argv = [*inside, binary]
        self._address = address
        self.port = free_port()
        self.log_path = directory / f"{name}.log"
        self._config = directory / f"{name}.yaml"
        self._config.write_text(
            CONFIG.format(
                port=self.port,
                key=KEY,
                secret=SECRET,
                tcp_port=free_port(),
                udp_port=free_port(socket.SOCK_DGRAM),
                address=address,
                interface=interface,
                loopback=str(interface == "lo").lower(),
                more=more,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._log: list[Mapping[str, Any]] = []
        self._log_read = 0

    @property
    def url(self) -> str:
        return f"ws://{self._address}:{self.port}"

    @property
    def http_url(self) -> str:
        return f"http://{self._address}:{self.port}"

    def start(self) -> None:
        """Start it and wait until ``GET /`` answers 200: 0.05 to 0.5 s."""
        assert self._process is None
        with self.log_path.open("ab") as log:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("LIVEKIT_")}
            self._process = subprocess.Popen(
                [*self._argv, "--config", str(self._config)], stdout=log, stderr=log, env=environment
            )
        until = time.monotonic() + 20
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"livekit-server did not start:\n{self.log_path.read_text()[-4_000:]}", pytrace=False)
            time.sleep(0.02)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.http_url, timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL: its sockets are reset, nobody is told anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It stops in the middle of everything; its sockets stay open and silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    # ---------------------------------------------------------------- the log

    def log(self) -> list[Mapping[str, Any]]:
        """Every complete JSON line so far.  Reads only what was written since the last call."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_read)
            fresh = file.read()
        complete, newline, _ = fresh.rpartition(b"\n")
        self._log_read += len(complete) + len(newline)
        for line in complete.splitlines():
            if line.startswith(b"{"):  # the Go runtime writes plain lines when it ends
                self._log.append(json.loads(line))
        return self._log

    async def wait_log(
        self, message: str, where: Callable[[Mapping[str, Any]], bool] = lambda _: True, timeout: float = 15
    ) -> Mapping[str, Any]:
        """The first log line with ``message`` for which ``where`` holds, now or within ``timeout``."""
        seen = 0
        with anyio.move_on_after(timeout):
            while True:
                records = self.log()
                for record in records[seen:]:
                    if record.get("msg") == message and where(record):
                        return record
                seen = len(records)
                await anyio.sleep(0.02)
        raise AssertionError(f"after {timeout} s the server's log has no {message!r} line of the wanted kind")

    async def job_ended(self, job_id: str, timeout: float = 15) -> tuple[str, str]:
        """Status and error of a job's end as the server recorded them."""
        record = await self.wait_log("job ended", lambda line: line.get("jobID") == job_id, timeout)
        return str(record.get("status")), str(record.get("error", ""))
