"""Configuration against a model: variables, secret files and flags come and go in any order.

The model is a table of texts, each with what it means or that it means nothing.  After each step the environment is
read anew, flags are laid over it, and values, provenance and the exact set of faults must be the model's; whatever the
state, no secret is in a repr or a message.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from livekit_agent import Config, ConfigError, WorkerOptions
from livekit_agent.config import SETTINGS

SECRET = "kJ8sQp2LmZ0vXyR4tUwE6bNcA1dFgH3iO5rS7eTqWxYz"
NOTHING: Any = object()
"""What a text means that means nothing."""

#: variable: texts, what each means, and whether that passes the judgement of the whole.
TEXTS: dict[str, dict[str, tuple[Any, bool]]] = {
    "LIVEKIT_URL": {
        "wss://h": ("wss://h", True),
        " ws://127.0.0.1:7880 ": ("ws://127.0.0.1:7880", True),
        "wss://h/p?q=1": ("wss://h/p?q=1", True),
        "h:7880": ("h:7880", False),
        f"wss://u:{SECRET}@h": (f"wss://u:{SECRET}@h", False),
        f"wss://h?access_token={SECRET}": (f"wss://h?access_token={SECRET}", False),
    },
    "LIVEKIT_API_KEY": {"devkey": ("devkey", True), "'quoted'": ("'quoted'", False)},
    "LIVEKIT_API_SECRET": {SECRET: (SECRET, True), f"{SECRET} x": (f"{SECRET} x", False)},
    "LIVEKIT_AGENT_NAME": {"echo": ("echo", True)},
    "LIVEKIT_NAMESPACE": {"tenant": ("tenant", True)},
    "LIVEKIT_MAX_CONCURRENT_JOBS": {
        "7": (7, True),
        "Unlimited": (None, True),
        "0": (0, False),
        "-3": (-3, False),
        "many": (NOTHING, False),
        "1.5": (NOTHING, False),
        SECRET: (NOTHING, False),
    },
    "LIVEKIT_LOG_LEVEL": {"WARNING": ("warn", True), "debug": ("debug", True), "loud": (NOTHING, False)},
    "LIVEKIT_RECOVERY_ENABLED": {"no": (False, True), "on": (True, False), "maybe": (NOTHING, False)},
    "LIVEKIT_WEBSOCKET_DEBUG": {"1": (True, True), "F": (False, True), "2": (NOTHING, False)},
    "HTTPS_PROXY": {
        f"http://u:{SECRET}@p:1": (f"http://u:{SECRET}@p:1", True),
        "socks5://p": ("socks5://p", False),
    },
    "https_proxy": {"http://q": ("http://q", True), "ftp://q": ("ftp://q", False)},
    "NO_PROXY": {"h, .example": ("h, .example", True)},
    "SSL_CERT_FILE": {__file__: (__file__, True), "/nowhere/ca.pem": ("/nowhere/ca.pem", False)},
}
FIELDS = {variable: setting.name for setting in SETTINGS for variable in setting.variables}
SECRETS = ("api_key", "api_secret")
FLAGS: dict[str, dict[Any, bool]] = {
    "url": {"wss://flag": True, "nonsense": False},
    "max_jobs": {3: True, None: True, 0: False},
    "agent_name": {"from-flag": True},
}
WHOLE = [(variable, text) for variable, texts in TEXTS.items() for text in texts]
FILES = [(variable, text) for variable, text in WHOLE if FIELDS[variable] in SECRETS]


class Deployment(RuleBasedStateMachine):
    """An environment that somebody repairs and breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.environ: dict[str, str] = {}
        self.said: dict[str, str] = {}
        """variable or its _FILE: the text that it says in the end."""
        self.flags: dict[str, Any] = {}

    def teardown(self) -> None:
        self.directory.cleanup()

    @rule(entry=st.sampled_from(WHOLE))
    def export(self, entry: tuple[str, str]) -> None:
        self.environ[entry[0]] = self.said[entry[0]] = entry[1]

    @rule(variable=st.sampled_from(sorted(TEXTS)), blank=st.sampled_from([None, "", "  "]))
    def unset(self, variable: str, blank: str | None) -> None:
        self.said.pop(variable, None)
        if blank is None:
            self.environ.pop(variable, None)
        else:
            self.environ[variable] = blank

    @rule(entry=st.sampled_from(FILES), newline=st.sampled_from(["", "\n", "\r\n"]))
    def mount(self, entry: tuple[str, str], newline: str) -> None:
        path = Path(self.directory.name) / entry[0]
        path.write_bytes((entry[1] + newline).encode())
        self.environ[entry[0] + "_FILE"] = str(path)
        self.said[entry[0] + "_FILE"] = entry[1]

    @rule(variable=st.sampled_from(["LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"]))
    def unmount(self, variable: str) -> None:
        self.environ.pop(variable + "_FILE", None)
        self.said.pop(variable + "_FILE", None)

    @rule(data=st.data(), name=st.sampled_from(sorted(FLAGS)))
    def flag(self, data: st.DataObject, name: str) -> None:
        self.flags[name] = data.draw(st.sampled_from(list(FLAGS[name])))

    @rule()
    def no_flags(self) -> None:
        self.flags.clear()

    # ------------------------------------------------------------------------------------ the model's reading

    def sources(self, name: str) -> list[str]:
        """What sets a field, the first to count first."""
        variables = next(setting.variables for setting in SETTINGS if setting.name == name)
        files = [variable + "_FILE" for variable in variables if name in SECRETS]
        return [source for source in (*variables, *files) if source in self.said]

    def meaning(self, source: str) -> tuple[Any, bool]:
        variable = source if source in TEXTS else source.removesuffix("_FILE")
        return TEXTS[variable][self.said[source]]

    def unreadable(self) -> Iterator[str]:
        """Fields that cannot be read at all."""
        for setting in SETTINGS:
            sources = self.sources(setting.name)
            if sources and (self.meaning(sources[0])[0] is NOTHING or (setting.secret and len(sources) > 1)):
                yield setting.name

    @invariant()
    def it_is_read_and_judged_as_the_model_says(self) -> None:
        unreadable = set(self.unreadable())
        if unreadable:
            with pytest.raises(ExceptionGroup) as caught:
                Config.from_env(self.environ)
            assert self.fields(caught.value) == unreadable
            return
        config = Config.from_env(self.environ)
        bad: set[str] = {"url", "api_key", "api_secret"}
        for setting in SETTINGS:
            sources = self.sources(setting.name)
            assert config.source(setting.name) == (sources[0] if sources else "default")
            if sources:
                value, good = self.meaning(sources[0])
                assert getattr(config, setting.name) == value
                bad = bad - {setting.name} if good else bad | {setting.name}
        for name, value in self.flags.items():
            config = config.with_values(f"--{name}", **{name: value})
            assert (getattr(config, name), config.source(name)) == (value, f"--{name}")
            bad = bad - {name} if FLAGS[name][value] else bad | {name}
        if bad:
            with pytest.raises(ExceptionGroup) as caught:
                config.validate()
            assert self.fields(caught.value) == bad
        else:
            config.validate()
            assert config.options(WorkerOptions(max_jobs=9)).agent_name == config.agent_name
        assert SECRET not in repr(config)

    def fields(self, group: ExceptionGroup[Exception]) -> set[str]:
        """The fields of the faults; each fault names one, says where it is from and shows no secret."""
        found: list[str] = []
        for fault in group.exceptions:
            assert isinstance(fault, ConfigError)
            assert SECRET not in f"{fault!r} {fault} {fault.hint}"
            assert fault.source == "default" or fault.source in str(fault)
            found.append(fault.field)
        assert len(found) == len(set(found)), "one fault a field"
        return set(found)


TestDeployment = Deployment.TestCase
TestDeployment.settings = settings(max_examples=100, stateful_step_count=30)
