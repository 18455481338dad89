"""Install what the foreign-client tests and ``nox -s bench -- --peer`` talk to, each in a place of its own.

    python tests/e2e/foreign/install.py [DIRECTORY]        default: .ci/cache/foreign

makes ``DIRECTORY/peer`` (a virtual environment with livekit-agents) and ``DIRECTORY/node/node_modules`` (the server SDK
and the agents framework of JavaScript).  The tests look there, or where ``LIVEKIT_PEER_PYTHON`` and
``LIVEKIT_NODE_MODULES`` point.  Running it again costs nothing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PEER = "livekit-agents==1.8.9"
NODE = {
    "livekit-server-sdk": "2.19.2",
    "@livekit/agents": "1.9.0",
    "@livekit/rtc-node": "0.13.34",
    "zod": "4.1.8",
    # The browser itself is not npm's: Debian's chromium-headless-shell or chromium, or any other (LIVEKIT_CHROMIUM).
    "livekit-client": "2.23.0",
    "playwright-core": "1.65.1",
}
DEFAULT = Path(__file__).resolve().parents[3] / ".ci" / "cache" / "foreign"


def main() -> int:
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    install_peer(where / "peer")
    if shutil.which("npm"):
        install_node(where / "node")
    else:
        print("npm is not installed: the JavaScript clients are left out", file=sys.stderr)
    return 0


def install_peer(where: Path) -> None:
    stamp = where / "installed"
    if stamp.exists() and stamp.read_text() == PEER:
        return
    venv.create(where, with_pip=True, clear=True)
    pip = [str(where / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, PEER], check=True)
    stamp.write_text(PEER)


def install_node(where: Path) -> None:
    stamp = where / "installed"
    wanted = json.dumps(NODE, sort_keys=True)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    where.mkdir(parents=True, exist_ok=True)
    (where / "package.json").write_text(json.dumps({"private": True, "type": "module", "dependencies": NODE}))
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=where, check=True)
    stamp.write_text(wanted)


if __name__ == "__main__":
    raise SystemExit(main())
