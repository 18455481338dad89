"""Run a command in a network namespace of its own, which has a loopback and an empty bridge and nothing else.

    python tests/e2e/netns.py pytest tests/e2e …

Nothing can leave such a namespace, so a "local" test that would talk to the internet fails there.  The bridge is
there because libwebrtc ignores every interface flagged loopback: it wants one other that is up with an IPv4
address, though no packet ever goes out by it.  As root this is ``unshare -n``; as anybody else ``unshare -Urn``,
where the kernel allows it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

SETUP = (
    "ip link set lo up && ip link add br0 type bridge && ip addr add 10.99.0.1/24 dev br0 && ip link set br0 up"
    ' && exec "$@"'
)
ALREADY_INSIDE = "LIVEKIT_AGENT_TEST_NETNS"


def command(argv: list[str]) -> list[str]:
    """``argv``, wrapped so that it runs inside; raises SystemExit with the reason where that is impossible."""
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing (util-linux and iproute2 have it): cannot make a network namespace")
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-Urn"]
    probe = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise SystemExit(f"{shlex.join(unshare)} is not allowed here: {probe.stderr.strip()}")
    return [*unshare, "sh", "-c", SETUP, "sh", *argv]


def main() -> None:
    argv = sys.argv[1:]
    if not argv:
        raise SystemExit(__doc__)
    if os.environ.get(ALREADY_INSIDE):
        os.execvp(argv[0], argv)
    os.environ[ALREADY_INSIDE] = "1"
    wrapped = command(argv)
    os.execvp(wrapped[0], wrapped)


if __name__ == "__main__":
    main()
