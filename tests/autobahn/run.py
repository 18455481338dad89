"""Run Autobahn|Testsuite against us, on both backends, and write docs/proof/autobahn.md.

``python tests/autobahn/run.py --python27 PATH [--env DIR] [--groups 1,2,…]``

The suite (autobahntestsuite 25.10.1) runs on CPython 2.7 only, which no distribution ships any more: build one, for
instance by ``pyenv install 2.7.18``, and give its path here or as ``PYTHON27``; a C compiler is needed as well.  The
environment that it is installed into (a minute) is kept and used again.

Groups 12 and 13 are permessage-deflate, which we never offer; group 8 does not exist.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "proof" / "autobahn.md"
GROUPS = "1,2,3,4,5,6,7,9,10"
BACKENDS = ("asyncio", "trio")

_GROUP_NAMES = {
    "1": "Framing",
    "2": "Pings and pongs",
    "3": "Reserved bits",
    "4": "Opcodes",
    "5": "Fragmentation",
    "6": "UTF-8",
    "7": "Closing",
    "9": "Limits and performance",
    "10": "Automatic fragmentation",
}


def install(python27: str, env: Path) -> Path:
    """The suite in an environment of its own; its interpreter."""
    python = env / "bin" / "python"
    if not (env / "bin" / "wstest").exists():
        with tempfile.TemporaryDirectory() as boot:
            command = [python27, "-m", "pip", "install", "-q", "--target", boot, "virtualenv==20.15.1"]
            subprocess.run(command, check=True)
            environment = {**os.environ, "PYTHONPATH": boot}
            subprocess.run([python27, "-m", "virtualenv", "-q", "--no-download", env], check=True, env=environment)
        pins = HERE / "constraints-py27.txt"
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", pins], check=True)
    return python


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until somebody listens there."""
    for _ in range(300):
        assert process.poll() is None, "the suite ended at once"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the suite does not listen")


def judge(python: Path, groups: str, reports: Path) -> dict[str, dict[str, Any]]:
    """The suite's verdicts, by agent and case."""
    port = free_port()
    spec = {
        "url": f"ws://127.0.0.1:{port}",
        "outdir": str(reports),
        "cases": [f"{group}.*" for group in groups.split(",")],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (reports / "spec.json").write_text(json.dumps(spec))
    command = [python, HERE / "wstest_loopback.py", "-m", "fuzzingserver", "-s", reports / "spec.json", "-u", "0"]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL) as suite:
        try:
            wait_for(port, suite)
            for backend in BACKENDS:
                client = [sys.executable, HERE / "client.py", "--port", str(port), "--backend", backend]
                subprocess.run(client, check=True)
        finally:
            suite.terminate()
    return json.loads((reports / "index.json").read_text())


def _order(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def page(verdicts: dict[str, dict[str, Any]]) -> str:
    """The page in docs."""
    lines = [
        "# Autobahn|Testsuite",
        "",
        "The worker's WebSocket client, `protocol/_websocket.py` over the streams of `runtime/_transport.py`, with an",
        "echo in place of the codec, judged by autobahntestsuite 25.10.1 as a fuzzing server. The verdicts are its.",
        "Written by `nox -s autobahn`. permessage-deflate (groups 12 and 13) is never offered and therefore left out;",
        "there is no group 8.",
        "",
    ]
    header = "| group | " + " | ".join(agent.rpartition(" ")[2] for agent in sorted(verdicts)) + " |"
    lines += [header, "|---|" + "---|" * len(verdicts)]
    for group, name in _GROUP_NAMES.items():
        cells = []
        for agent in sorted(verdicts):
            rows = {case: v for case, v in verdicts[agent].items() if case.partition(".")[0] == group}
            cells.append(_counts(Counter(v["behavior"] for v in rows.values())))
        lines.append(f"| {group} {name} | " + " | ".join(cells) + " |")
    totals = [_counts(Counter(v["behavior"] for v in verdicts[agent].values())) for agent in sorted(verdicts)]
    closes = [_counts(Counter(v["behaviorClose"] for v in verdicts[agent].values())) for agent in sorted(verdicts)]
    lines.append("| **all** | " + " | ".join(f"**{total}**" for total in totals) + " |")
    lines.append("| closing of all | " + " | ".join(closes) + " |")
    lines += ["", "Not plainly OK:", ""]
    for agent in sorted(verdicts):
        odd = sorted((case for case, v in verdicts[agent].items() if v["behavior"] != "OK"), key=_order)
        told = ", ".join(f"{case} {verdicts[agent][case]['behavior']}" for case in odd) or "none"
        lines.append(f"- {agent.rpartition(' ')[2]}: {told}")
    lines += [
        "",
        "INFORMATIONAL is not a fault: these cases look at what the standard leaves open, and no client gets an OK.",
    ]
    return "\n".join(lines) + "\n"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(counter.items(), key=lambda row: -row[1])) or "none"


def failures(verdicts: dict[str, dict[str, Any]]) -> list[str]:
    """Cases that are neither OK nor informational, or not closed as they should be."""
    good = ("OK", "INFORMATIONAL")
    return [
        f"{agent}: {case} {verdict['behavior']}, closing {verdict['behaviorClose']}"
        for agent, cases in verdicts.items()
        for case, verdict in cases.items()
        if verdict["behavior"] not in good or verdict["behaviorClose"] not in good
    ]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python27", default=os.environ.get("PYTHON27", "python2.7"))
    parser.add_argument("--env", type=Path, default=Path(tempfile.gettempdir()) / "autobahn-py27")
    parser.add_argument("--groups", default=GROUPS)
    arguments = parser.parse_args()
    python = install(arguments.python27, arguments.env)
    with tempfile.TemporaryDirectory() as reports:
        verdicts = judge(python, arguments.groups, Path(reports))
    if arguments.groups == GROUPS:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(verdicts))
    print(page(verdicts))
    bad = failures(verdicts)
    print("\n".join(bad) or "no case failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
