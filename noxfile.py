"""Sessions for people: ``nox -s tests``, ``nox -s lint`` …  CI is .ci/run, which needs no nox."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ["3.11", "3.12", "3.13"]
CONSTRAINTS = ("-c", "constraints.txt")
_RESULTS = "tests/mutants/results"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Unit and virtual-time tests, on both backends."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    session.run("pytest", "--ignore=tests/e2e", *session.posargs)


@nox.session(python="3.12")
def lint(session: nox.Session) -> None:
    """ruff, and the layers by import-linter."""
    session.install("-e", ".[lint]", *CONSTRAINTS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session(python="3.12")
def types(session: nox.Session) -> None:
    """basedpyright: strict on src, and what calls it by its signatures."""
    session.install("-e", ".[dev,lint]", *CONSTRAINTS)
    session.run("basedpyright")
    session.run("basedpyright", "-p", "tests")


@nox.session(python="3.12")
def e2e(session: nox.Session) -> None:
    """The scenarios on the embedded and on a real livekit-server, which must be on PATH, in a network namespace."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    command = ("pytest", "-m", "e2e or real_server", *session.posargs)
    session.run("python", "tests/e2e/netns.py", *command, env={"CI": "true"})


@nox.session(python="3.12")
def browser(session: nox.Session) -> None:
    """A real browser in a room with an agent; writes docs/images/browser.png.  Wants Chromium, node and npm."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    session.run("python", "tests/e2e/foreign/install.py")
    environment = {"CI": "true", "LIVEKIT_SCREENSHOT": "docs/images/browser.png"}
    session.run("python", "tests/e2e/netns.py", "pytest", "tests/e2e/test_browser.py", env=environment)


@nox.session(python="3.12")
def endurance(session: nox.Session) -> None:
    """A thousand visits to a real livekit-server (on PATH), and each operation given up at its worst moments."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    # Nearly all of it is waiting; each of the six brings a server.
    command = ("pytest", "tests/rooms/endurance.py", "-m", "real_server", "-n", "6", *session.posargs)
    session.run("python", "tests/e2e/netns.py", *command, env={"CI": "true"})


@nox.session(python="3.12")
def bench(session: nox.Session) -> None:
    """The benchmarks; writes docs/benchmarks.md.  ``-- --peer``: beside livekit-agents, which it installs by itself."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    if "--peer" in session.posargs:
        session.run("python", "tests/e2e/foreign/install.py")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(python="3.12")
def soak(session: nox.Session) -> None:
    """Fifty rooms for ten minutes on a real livekit-server: nothing lost, no gap in the sound."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    session.run("python", "tests/e2e/netns.py", "python", "-m", "benchmarks.soak", *session.posargs)


@nox.session(python="3.12")
def docs(session: nox.Session) -> None:
    """Write the generated parts of the documentation anew, then check every page and example."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    session.run("python", "docs/generate.py")
    session.run("pytest", "tests/test_docs.py", *session.posargs)


@nox.session(python="3.12")
def autobahn(session: nox.Session) -> None:
    """Autobahn|Testsuite against our WebSocket client; writes docs/proof/autobahn.md.

    The suite wants CPython 2.7 and a C compiler: ``PYTHON27=$(pyenv prefix 2.7.18)/bin/python nox -s autobahn``.
    """
    session.install("-e", ".[dev]", *CONSTRAINTS)
    session.run("python", "tests/autobahn/run.py", *session.posargs)


@nox.session(python="3.12")
def contracts(session: nox.Session) -> None:
    """The conformance suite against ours, livekit-agents and @livekit/agents; writes docs/contracts.md's table."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    session.run("python", "tests/e2e/foreign/install.py")
    session.run("python", "docs/contracts_table.py")


#: Where the ordinary suite kills soonest comes first; simulation, mutants and what drives histories are left out.
_ORDINARY = (
    *("tests/protocol", "tests/runtime", "tests/dispatch", "tests/api", "tests/rooms", "tests/cli", "tests/testing"),
    *("tests/test_config.py", "tests/test_errors.py", "tests/test_options.py", "tests/test_secrets.py"),
    *("tests/test_exports.py", "tests/test_harness.py", "tests/test_docs.py", "tests/test_api_mapping.py"),
    *("tests/e2e", "--ignore=tests/cli/test_simulate.py", "--ignore=tests/testing/test_plugin.py"),
    *("--deselect", "tests/test_docs.py::test_the_example_with_seeds_passes"),
)


@nox.session(python="3.12")
def mutants(session: nox.Session) -> None:
    """Search for the named mutants by simulation, within 2,000 seeds on each backend; writes docs/proof/mutants.md."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    session.run("python", "-m", "tests.mutants.search", *session.posargs)
    session.run("python", "-m", "tests.mutants.pages")


@nox.session(python="3.12")
def survivors(session: nox.Session) -> None:
    """Which of the named mutants live through all tests but the simulation's; writes docs/proof/mutants.md."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    command = ("python", "-m", "pytest", "-p", "tests.mutants.mutation", "-q", "-p", "no:randomly", *_ORDINARY)
    session.run(*command, *(session.posargs or ("--named", "all", "--verdicts", f"{_RESULTS}/survivors.tsv")))
    session.run("python", "-m", "tests.mutants.pages")


@nox.session(python="3.12")
def mutation(session: nox.Session) -> None:
    """Mutation testing of the pure core with the protocol tests, at least 85 %; writes docs/proof/mutation.md."""
    session.install("-e", ".[dev]", *CONSTRAINTS)
    command = ("python", "-m", "pytest", "-p", "tests.mutants.mutation", "-q", "-p", "no:randomly", "tests/protocol")
    session.run(*command, "--at-least", "85", *(session.posargs or ("--verdicts", f"{_RESULTS}/mutation.tsv")))
    session.run("python", "-m", "tests.mutants.pages")


@nox.session(python="3.12")
def simloom(session: nox.Session) -> None:
    """Our histories on another simulator's loop: the same hashes in three processes; writes docs/proof/simloom.md."""
    session.install("-e", ".", "simloom==0.5.0", *CONSTRAINTS)
    session.run("python", "tests/simulation/simloom_judge.py", *session.posargs)


@nox.session(python="3.12")
def fuzz(session: nox.Session) -> None:
    """Ten minutes of coverage-guided fuzzing for each target (Linux); ``-- --seconds 60 tokens`` for less."""
    session.install("-e", ".[dev]", "atheris>=3.0,<4", *CONSTRAINTS)
    session.run("python", "-m", "tests.fuzz.run", *session.posargs)
