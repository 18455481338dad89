"""Devices that are there: PulseAudio with loops instead of loudspeakers, and an X server without a monitor.

What is played is heard by a microphone, through PortAudio, ALSA and the sound server; what is on the display is found
in the pictures.  Each test has servers of its own, so that it may kill them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from realserver import skip_or_fail

pytestmark = pytest.mark.timeout(120)

LOOPS = {"mouth": "ear", "line": "desk"}
"""What is played to the one is heard by the other."""

ALSA = "</usr/share/alsa/alsa.conf>\n" + "".join(
    f'pcm.{played} {{ type pulse device {played} }}\npcm.{heard} {{ type pulse device "{played}.monitor" }}\n'
    for played, heard in LOOPS.items()
)


def needed(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        skip_or_fail(f"no {program}: apt install {package}")
        raise AssertionError("unreachable")
    return found


@contextmanager
def running(command: list[str], ready: Any, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A server, from the moment that it is ready."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": os.environ["PATH"], **environment},
    )
    try:
        deadline = time.monotonic() + 20
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"{command[0]} did not start: {process.communicate()[0]}")
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def sound_system(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which there is one."""
    pulseaudio = needed("pulseaudio", "pulseaudio libasound2-plugins libportaudio2")
    tmp_path.chmod(0o700)
    (tmp_path / "asound.conf").write_text(ALSA)
    socket = tmp_path / "native"
    modules = [f"module-null-sink sink_name={name} rate=48000 channels=1" for name in LOOPS]
    # The socket last: when it is there, the rest is.
    modules.append(f"module-native-protocol-unix socket={socket} auth-anonymous=1")
    command = [pulseaudio, "-n", "--daemonize=no", "--exit-idle-time=-1", *(f"--load={module}" for module in modules)]
    home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    with running(command, socket.exists, **home) as process:
        yield {
            **home,
            "ALSA_CONFIG_PATH": str(tmp_path / "asound.conf"),
            "PULSE_SERVER": f"unix:{socket}",
            "SOUND_SYSTEM": str(process.pid),
        }


@pytest.fixture
def display(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which there is one."""
    xvfb = needed("Xvfb", "xvfb")
    number = tmp_path / "number"
    framebuffer = tmp_path / "Xvfb_screen0"
    with number.open("w") as file:
        command = [xvfb, "-displayfd", "1", "-screen", "0", "320x240x24", "-nolisten", "tcp", "-noreset"]
        command += ["-fbdir", str(tmp_path)]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while not number.read_text().endswith("\n"):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"Xvfb did not start: {process.communicate()[1]}")
            time.sleep(0.02)
        yield {
            "DISPLAY": f":{number.read_text().strip()}",
            "FRAMEBUFFER": str(framebuffer),
            "DISPLAY_SERVER": str(process.pid),
        }
    finally:
        process.kill()
        process.communicate()


def told(what: str, backend: str, environment: dict[str, str]) -> dict[str, Any]:
    """What the child says."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("devices_child.py")), what, backend],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_what_the_speaker_plays_the_microphone_hears_until_the_sound_system_dies(
    sound_system: dict[str, str], backend: str
) -> None:
    said = told("sound", backend, sound_system)
    assert {"mouth", "line", "ear", "desk"} <= set(said["microphones"]) & set(said["speakers"])
    assert said["hz"] == 440
    assert said["db"] > 20
    assert said["dropped"] == 0
    assert said["codes"] == ["DEVICE_LOST", "DEVICE_LOST"]


@pytest.mark.long
def test_the_echo_of_the_speaker_is_taken_out_of_the_microphone(sound_system: dict[str, str]) -> None:
    said = told("echo", "trio", sound_system)
    assert said["without"] > -40
    assert said["with"] < said["without"] - 20


def test_the_telephone_example_is_heard_and_hears(sound_system: dict[str, str], backend: str) -> None:
    said = told("telephone", backend, sound_system)
    assert abs(said["at the speaker"] - 1_000) <= 2
    assert abs(said["in the room"] - 440) <= 2


def test_a_window_is_followed_over_the_screen_until_the_display_dies(display: dict[str, str], backend: str) -> None:
    said = told("screen", backend, display)
    assert (said["size"], said["primary"]) == ([320, 240], True)
    rest = 320 * 240 - 40 * 30
    assert said["windows"] == [[left, 50, 40 * 30, rest] for left in (0, 100, 280)]
    assert said["code"] == "DEVICE_LOST"


@pytest.mark.skipif(any(Path("/proc/asound").glob("card[0-9]*")), reason="this machine has a sound card")
def test_where_there_is_no_sound_system_and_no_display_it_is_said(tmp_path: Path) -> None:
    code = (
        "import anyio\nfrom livekit_agent import DeviceError\nfrom livekit_agent.rooms import *\n"
        "async def main():\n"
        "    for block in (open_microphone, open_speaker, open_screen):\n"
        "        try:\n"
        "            async with block(): print('open')\n"
        "        except DeviceError as error: print(error.code)\n"
        "anyio.run(main)"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "PULSE_SERVER")}
    environment |= {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.split() == ["DEVICE_UNAVAILABLE"] * 3, done.stderr
