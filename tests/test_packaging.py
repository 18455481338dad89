"""What an installation brings: counted from the metadata of what is installed here, nothing downloaded."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

import livekit_agent

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: "At most": the owner's list.
ALLOWED = {
    "anyio", "httpx", "wsproto", "livekit-protocol", "protobuf", "livekit", "psutil", "numpy", "pyjwt", "trio",
}  # fmt: skip


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(requirements: list[str], extra: str = "") -> list[Requirement]:
    """The requirements that hold in this environment."""
    parsed = [Requirement(text) for text in requirements]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": extra})]


def closure(requirements: list[str]) -> set[str]:
    """The distributions that ``requirements`` bring, ours included."""
    found: set[str] = {"livekit-agent-sdk"}
    todo = wanted(requirements)
    while todo:
        requirement = todo.pop()
        name = canonical(requirement.name)
        if name in found:
            continue
        found.add(name)
        for extra in ("", *sorted(requirement.extras)):
            todo += wanted(distribution(name).requires or [], extra)
    return found


def test_the_core_brings_at_most_22_packages() -> None:
    names = closure(PROJECT["dependencies"])
    assert len(names) <= 22, sorted(names)


def test_with_the_command_line_it_is_at_most_27() -> None:
    names = closure(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["cli"])
    assert len(names) <= 27, sorted(names)


def test_no_dependency_came_in_by_the_way() -> None:
    assert {canonical(Requirement(text).name) for text in PROJECT["dependencies"]} <= ALLOWED
    assert {canonical(Requirement(text).name) for text in PROJECT["optional-dependencies"]["cli"]} == {"click", "rich"}


def test_the_pythons_are_3_11_to_3_13() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    versions = [text.rsplit(" ", 1)[1] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert versions == ["3.11", "3.12", "3.13"]


def test_the_version_is_told_once() -> None:
    assert PROJECT["version"] == livekit_agent.__version__
    assert f"## Unreleased: {livekit_agent.__version__}" in (ROOT / "CHANGELOG.md").read_text() or (
        f"## {livekit_agent.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    )


def test_the_command_and_the_licence() -> None:
    assert PROJECT["scripts"] == {"livekit-agent": "livekit_agent.__main__:main"}
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert (ROOT / "src" / "livekit_agent" / "py.typed").exists()


def test_the_pinned_versions_satisfy_the_ranges() -> None:
    """constraints.txt must not hold back what pyproject.toml asks for."""
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                pins.setdefault(canonical(requirement.name), []).append(requirement)
    extras = PROJECT["optional-dependencies"]
    asked = [Requirement(text) for text in [*PROJECT["dependencies"], *extras["cli"], *extras["dev"], *extras["lint"]]]
    for requirement in asked:
        if canonical(requirement.name) == "livekit-agent-sdk":
            continue
        (pin,) = pins[canonical(requirement.name)]
        (version,) = [specifier.version for specifier in pin.specifier]
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_every_installed_package_is_pinned() -> None:
    names = closure(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["cli"]) - {"livekit-agent-sdk"}
    pinned = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    missing = []
    for name in sorted(names):
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        if f"\n{name}==" not in pinned:
            missing.append(name)
    assert missing == []
