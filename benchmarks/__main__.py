"""``python -m benchmarks [--smoke] [--peer] [--output docs/benchmarks.md]``: run everything, write the table.

``--smoke`` makes everything tiny, writes nothing and only asserts that every figure was produced: that is what CI runs.
The real server is found as the end-to-end tests find it; without one its figures are left out, and the page says so
(with ``--smoke`` and CI=true that is an error).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import frames, live, peer, processes, rooms, simulation, wire
from .report import Figure, table, write

BACKENDS = ("asyncio", "trio")
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def real_server() -> Iterator[str | None]:
    """The URL of a livekit-server of our own, or None where there is no binary."""
    sys.path.insert(0, str(ROOT / "tests" / "e2e"))
    from realserver import RealServer, find_server

    binary = find_server()
    if binary is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        server = RealServer(binary, Path(directory))
        server.start()
        try:
            yield server.url
        finally:
            server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; writes nothing")
    parser.add_argument(
        "--peer",
        nargs="?",
        const="",
        metavar="PYTHON",
        help="livekit-agents beside it, by this interpreter (default: that of tests/e2e/foreign/install.py)",
    )
    parser.add_argument("--only", default="", help="only suites whose name contains this: wire memory idle import …")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    missing: list[str] = []

    def run(name: str, suite: Callable[[], list[Figure]]) -> None:
        if arguments.only not in name:
            return
        began = time.monotonic()
        found = suite()
        assert found, f"{name} gave no figures"
        figures.extend(found)
        print(f"{name}: {time.monotonic() - began:.1f} s\n{table(found)}", file=sys.stderr, flush=True)

    smoke: bool = arguments.smoke
    run("import", lambda: processes.imports(smoke))
    run("frames", lambda: frames.measure(smoke))
    for backend in BACKENDS:
        run(f"wire {backend}", lambda backend=backend: wire.measure(backend, smoke))
        run(f"rate {backend}", lambda backend=backend: processes.rate(backend, smoke))
        run(f"memory {backend}", lambda backend=backend: processes.memory(backend, smoke))
        run(f"start alone {backend}", lambda backend=backend: processes.start_alone(backend, smoke))
        run(f"idle {backend}", lambda backend=backend: processes.idle(backend, smoke))
        run(f"room model {backend}", lambda backend=backend: rooms.model(backend, smoke))
    for engine in (*BACKENDS, simulation.CORES):
        run(f"simulation {engine}", lambda engine=engine: simulation.measure(engine, smoke))
    with real_server() as url:
        if url is None:
            missing.append("everything on a real livekit-server (no binary was found)")
        else:
            for backend in BACKENDS:
                run(f"live {backend}", lambda backend=backend: live.measure(backend, smoke, url))
                run(f"start {backend}", lambda backend=backend: processes.start(backend, smoke, url))
                if not (smoke and backend == "asyncio"):  # two minutes of processes that start
                    run(f"rooms {backend}", lambda backend=backend: rooms.measure(backend, smoke, url))
                    run(f"carried {backend}", lambda backend=backend: rooms.carried(backend, smoke, url))
        if arguments.peer is not None:
            figures = peer.beside(figures, url, smoke, arguments.peer)
        else:
            missing.append("livekit-agents beside it (run with `--peer`)")
    print(table(figures))
    if smoke and missing[:-1] and os.environ.get("CI") == "true":
        print(f"missing: {missing}", file=sys.stderr)
        return 1
    if not smoke and not arguments.only:
        write(arguments.output, figures, missing)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
