"""The documentation is part of the program: its code runs, its generated parts are fresh, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import wave
from collections.abc import AsyncGenerator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import anyio
import numpy as np
import pytest

import livekit_agent
from livekit_agent import Config, DeviceError, JobStatus, RpcError, UniversalWorker, events
from livekit_agent.cli._load import build_worker, load_file, pick
from livekit_agent.dispatch import DispatchServer
from livekit_agent.events import (
    ChatReceived,
    DataReceived,
    JobEnded,
    ParticipantJoined,
    TrackSubscribed,
    TranscriptionReceived,
)
from livekit_agent.rooms import AudioSource, DisconnectReason, RemoteParticipant, RemoteTrack, Room, RpcCode
from livekit_agent.rooms._proto import package_path

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    page: Path
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


BLOCKS = [
    Block(page, text.count("\n", 0, match.start()) + 2, match[1])
    for page in PAGES
    for text in [page.read_text()]
    for match in _BLOCK.finditer(text)
]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_python_block_compiles(block: Block) -> None:
    compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")


def can_be_executed(block: Block) -> bool:
    """A block that starts a program runs only if it is marked, for it may run for ever; one that reads the environment
    would read ours; the others define things."""
    return block.code.startswith("# runs") or not re.search(r"anyio\.run\(|from_env\(\)|os\.environ", block.code)


@pytest.mark.parametrize("block", [block for block in BLOCKS if can_be_executed(block)], ids=str)
def test_every_python_block_can_be_executed(block: Block) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", block.code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_there_are_blocks_to_test() -> None:
    assert len(BLOCKS) > 15
    assert sum(block.code.startswith("# runs") for block in BLOCKS) >= 3


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_are_what_the_code_would_write() -> None:
    stale = [str(path.relative_to(ROOT)) for path, old, new in script("generate").pages() if old != new]
    assert stale == [], "run: python docs/generate.py"


def test_every_public_name_is_on_a_page_and_says_what_it_is() -> None:
    pages = script("api_pages")
    placed = [name for names in pages.CHAPTERS.values() for name in names]
    errors = {name for name in livekit_agent.__all__ if name.endswith("Error") or name == "JobTerminated"}
    assert sorted(placed) == sorted(set(livekit_agent.__all__) - errors - {"events", "PROTOCOL_VERSION", "__version__"})
    assert sorted(errors - set(re.findall(r"\w+", (ROOT / "docs" / "errors.md").read_text()))) == []
    silent = [each for name in placed for each in pages.unexplained("livekit_agent", name)]
    for module in ("events", "rooms", "dispatch", "api", "simulation"):
        home = f"livekit_agent.{module}"
        silent += [f"{module}.{each}" for name in pages.public(home) for each in pages.unexplained(home, name)]
    assert silent == []


def test_the_contracts_table_loses_no_column_for_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIVEKIT_PEER_PYTHON", str(tmp_path / "python"))
    monkeypatch.setenv("NODE_MODULES_PARENT", str(tmp_path))
    table = script("contracts_table")
    before = table.PAGE.read_text()
    monkeypatch.setattr(table, "run_contracts", lambda *_, **__: pytest.fail("it began to play"))
    assert table.main() == 2
    told = capsys.readouterr().err
    assert "no column for livekit-agents" in told
    assert "no column for @livekit/agents" in told
    assert table.PAGE.read_text() == before


def test_the_contracts_table_has_a_column_for_each_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_MODULES_PARENT", str(tmp_path))
    heads = [line for line in (ROOT / "docs" / "contracts.md").read_text().splitlines() if line.startswith("| case |")]
    commands, missing = script("contracts_table").workers()
    assert [set(head.strip(" |").split(" | ")) for head in heads] == [{"case", *commands, *missing}]


def test_the_state_diagrams_are_drawn_from_the_tables() -> None:
    sys.path.insert(0, str(ROOT / "docs" / "design"))
    try:
        from draw_states import PAGE, page  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    assert PAGE.read_text() == page(), "run: python docs/design/draw_states.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in _LINK.findall(text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} in {page.name}"
        if anchor:
            assert anchor in anchors(there), f"{target} in {page.name}"


def anchors(page: Path) -> set[str]:
    """Explicit ids, and the slugs of the headings."""
    text = page.read_text()
    slugs = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


def test_the_index_leads_to_every_page() -> None:
    docs = ROOT / "docs"
    led = {(docs / target.partition("#")[0]).resolve() for target in _LINK.findall((docs / "index.md").read_text())}
    # The benchmarks' page is written by whoever runs them.
    found = [page for page in docs.rglob("*.md") if page.name not in ("index.md", "benchmarks.md")]
    missing = [page.name for page in found if page.resolve() not in led]
    assert missing == []


# ------------------------------------------------------------------------------------------------ livekit-agents

# What livekit-agents 1.8 shows of a worker and its jobs.
OPTIONS_THERE = """
    entrypoint_fnc request_fnc prewarm_fnc load_fnc job_executor_type load_threshold job_memory_warn_mb
    job_memory_limit_mb drain_timeout num_idle_processes shutdown_process_timeout session_end_timeout
    initialize_process_timeout permissions agent_name worker_type max_retry ws_url api_key api_secret log_level host
    port http_proxy multiprocessing_context preload_modules prometheus_port prometheus_multiproc_dir
"""
CONTEXT_THERE = """
    connect room job agent api worker_id wait_for_participant add_participant_entrypoint add_shutdown_callback shutdown
    delete_room add_sip_participant transfer_sip_participant log_context_fields token_claims is_fake_job tagger
    session_directory inference_executor make_session_report primary_session simulation_context inference_headers
    local_participant_identity init_recording proc.userdata proc.pid proc.executor_type
"""
REQUEST_THERE = "id job room publisher agent_name accept reject"
COMMANDS_THERE = "start dev console connect download-files"


def migration_page() -> str:
    return (ROOT / "docs" / "migration" / "from-livekit-agents.md").read_text()


def rows_there(section: str) -> str:
    """The left column of a table of the page."""
    text = migration_page().partition(f"\n### {section}\n")[2]
    table = text.partition("\n|---|---|\n")[2].partition("\n\n")[0]
    return "\n".join(line.split(" | ")[0] for line in table.splitlines())


def event_names_of_rtc() -> list[str]:
    """Read, not imported: nobody here needs an event loop of livekit.rtc's."""
    text = (Path(package_path()) / "room.py").read_text()
    return re.findall(r'"(\w+)"', text.partition("EventTypes = Literal[")[2].partition("]")[0])


def test_every_name_of_livekit_agents_has_a_row() -> None:
    assert [name for name in OPTIONS_THERE.split() if f"`{name}`" not in rows_there("WorkerOptions")] == []
    assert [name for name in CONTEXT_THERE.split() if not re.search(rf"ctx\.{name}\b", rows_there("JobContext"))] == []
    assert [name for name in REQUEST_THERE.split() if not re.search(rf"req\.{name}\b", rows_there("JobRequest"))] == []
    assert [name for name in COMMANDS_THERE.split() if f"agent.py {name}" not in rows_there("The command line")] == []
    names = event_names_of_rtc()
    assert len(names) > 30
    assert [name for name in names if f"`{name}`" not in rows_there("Events")] == []


def test_every_event_on_the_page_exists() -> None:
    table = migration_page().partition("\n### Events\n")[2].partition("\n## ")[0]
    found = re.findall(r"`(?:events\.)?([A-Z]\w+)`", table)
    assert len(found) > 25
    assert [name for name in found if not hasattr(events, name)] == []


async def test_the_program_on_the_page_does_what_it_says(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if "class Greeter" in block.code)
    path = tmp_path / "greeter.py"
    path.write_text(block.code)

    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        await hear(packets, said)
        for question in ("hello", "and now?"):
            await room.local_participant.publish_data(question)
            await hear(packets, said)
        worker.request_stop(timeout=0)

    assert await visit(path, act) == ["welcome, alice", "good morning", "what?"]


async def test_the_context_variable_on_the_page_finds_the_job(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if "ContextVar[JobContext]" in block.code)
    path = tmp_path / "hangs_up.py"
    path.write_text(block.code)

    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        with anyio.fail_after(10):
            assert (await room.wait_closed()).reason == DisconnectReason.ROOM_DELETED

    await visit(path, act)


# ------------------------------------------------------------------------------------------------ the README


def fenced(text: str, mark: str) -> str:
    """The fenced block below an HTML comment."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert found, mark
    return found[1]


def test_the_readme_has_two_commands_that_do_all_the_setting_up() -> None:
    text = (ROOT / "README.md").read_text()
    for name, last in (("demo", ".venv/bin/livekit-agent demo"), ("test", ".venv/bin/pytest -q -n auto")):
        (command,) = fenced(text, f"ci: {name} command").splitlines()
        assert command.startswith("$ python3 -m venv .venv && .venv/bin/pip install ")
        assert command.endswith(last)


def test_the_readme_shows_what_the_commands_said() -> None:
    text = (ROOT / "README.md").read_text()
    demo = fenced(text, "recorded: demo").splitlines()
    assert demo[0].startswith("livekit-agent demo on asyncio")
    assert demo[-1].startswith("ok  3 jobs: room success, participant success, publisher success; 1 reconnect")
    assert re.search(r"\d+ passed", fenced(text, "recorded: tests"))


def test_the_worker_of_the_readme_has_15_lines() -> None:
    text = (ROOT / "README.md").read_text()
    worker = text[text.index("## A worker in 15 lines") :]
    found = _BLOCK.search(worker)
    assert found
    assert len(found[1].splitlines()) <= 15


# ------------------------------------------------------------------------------------------------ the examples


async def visit(path: Path, act: Any) -> list[str]:
    """Run an example as ``livekit-agent dev`` would, send Alice in, and return what the agent said to her."""
    module = load_file(str(path))
    said: list[str] = []
    try:
        async with DispatchServer() as server:
            config = Config(url=server.url, api_key=server.api_key, api_secret=server.api_secret, rooms=server.rooms)
            worker = build_worker(pick(module), module, config, {}, drain=5.0)
            async with worker, server.rooms.join("lobby", "alice", name="Alice") as room:
                with room.subscribe(DataReceived) as packets:
                    await act(worker, room, packets, said)
    finally:
        del sys.modules[path.stem]
    return said


async def hear(packets: Any, said: list[str]) -> None:
    with anyio.fail_after(10):
        said.append((await anext(packets)).data.decode())


async def test_the_echo_example_says_everything_back() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        with anyio.fail_after(10):
            while not said:
                # Nobody keeps data for late-comers: say it until the agent listens.
                await room.local_participant.publish_data("hello")
                with anyio.move_on_after(0.05):
                    await hear(packets, said)
        worker.request_stop(timeout=0)

    assert (await visit(ROOT / "examples" / "echo.py", act))[0] == "hello"


async def test_the_greeter_example_greets_and_ends_when_the_guest_leaves() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        ended = worker.events(JobEnded)
        await hear(packets, said)
        await room.disconnect()
        assert (await anext(ended)).status is JobStatus.SUCCESS

    assert await visit(ROOT / "examples" / "greeter.py", act) == ["welcome, Alice"]


async def test_the_watcher_example_tells_what_is_published() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        ended = worker.events(JobEnded)
        publication = await room.local_participant.publish_audio(AudioSource(), name="microphone")
        await hear(packets, said)
        await hear(packets, said)
        await room.local_participant.unpublish_track(publication.sid)
        await hear(packets, said)
        await room.disconnect()
        assert (await anext(ended)).status is JobStatus.SUCCESS

    assert sorted(await visit(ROOT / "examples" / "watcher.py", act)) == [
        "alice publishes microphone",
        "alice takes microphone down",
        "watching alice",
    ]


async def test_the_doorkeeper_example_takes_an_ordinary_room() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        await hear(packets, said)
        assert [p.name for p in room.remote_participants.values()] == ["Doorkeeper"]

    assert await visit(ROOT / "examples" / "doorkeeper.py", act) == ["I keep the door"]


async def test_the_custom_load_example_counts_the_room() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        await hear(packets, said)

    assert await visit(ROOT / "examples" / "custom_load.py", act) == ["load 0.125"]


async def test_the_calculator_example_answers_calls() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        ask = room.local_participant.perform_rpc
        with anyio.fail_after(10):
            (agent,) = [p.identity async for p in the_agent(room)]
            while not said:
                try:
                    said.append(await ask(agent, "add", "1 2 3.5"))
                except RpcError as error:
                    # It is in the room a moment before it serves.
                    if error.rpc_code != RpcCode.UNSUPPORTED_METHOD:
                        raise
            said.append(await ask(agent, "multiply", "2 21"))
            with pytest.raises(RpcError) as caught:
                await ask(agent, "add", "one")
            said.append(str(caught.value.rpc_code))
        worker.request_stop(timeout=0)

    assert await visit(ROOT / "examples" / "rpc_calculator.py", act) == ["6.5", "42.0", "2000"]


async def the_agent(room: Room) -> AsyncGenerator[RemoteParticipant]:
    with room.subscribe(ParticipantJoined, replay=True) as joined:
        async for event in joined:
            assert isinstance(event, ParticipantJoined)
            yield event.participant
            return


async def test_the_chat_bot_example_answers_chat_and_streams() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        me = room.local_participant
        with anyio.fail_after(10), room.subscribe(ChatReceived) as chats, room.text_streams("answer") as answers:
            while not said:
                # Nobody keeps messages for late-comers: say it until the agent listens.
                await me.send_chat("hello")
                with anyio.move_on_after(0.05):
                    said.append((await anext(chats)).message.text)
            await me.send_text("how are you", topic="question")
            said.append(await (await anext(answers)).read_all())
            with room.text_streams("lk.chat") as lines:
                await me.send_text("typed", topic="lk.chat")
                said.append(await (await anext(lines)).read_all())
        worker.request_stop(timeout=0)

    assert await visit(ROOT / "examples" / "chat_bot.py", act) == [
        "you said: hello",
        "HOW ARE YOU ",
        "you said: typed",
    ]


def sine(hz: float, seconds: float) -> Any:
    at = np.arange(round(48_000 * seconds)) / 48_000
    return np.rint(16_000 * np.sin(2 * np.pi * hz * at)).astype(np.int16)


def loudest(samples: Any) -> float:
    """The strongest frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / 48_000)[int(np.argmax(spectrum))])


async def first_track(room: Room) -> RemoteTrack:
    with room.subscribe(TrackSubscribed, replay=True) as arrivals:
        async for event in arrivals:
            assert isinstance(event, TrackSubscribed)
            return event.track
    raise AssertionError("the room ended")


async def hears(room: Room, seconds: float = 0.2) -> float:
    """The pitch of what the agent plays, from its first sound."""
    pieces: list[Any] = []
    with (await first_track(room)).audio_frames() as frames:
        async for frame in frames:
            if pieces or frame.samples.any():
                pieces.append(frame.samples[:, 0])
            if len(pieces) >= 100 * seconds:
                break
    return loudest(np.concatenate(pieces))


async def test_the_tone_example_plays_its_tone() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        with anyio.fail_after(10):
            said.append(f"{await hears(room):g} Hz")
        worker.request_stop(timeout=0)

    assert await visit(ROOT / "examples" / "tone.py", act) == ["440 Hz"]


async def test_the_sound_echo_example_plays_back_what_it_hears() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        with anyio.fail_after(10):
            source = (await room.local_participant.publish_audio()).track.source
            async with anyio.create_task_group() as group:
                group.start_soon(source.play, sine(1_000, 5))
                said.append(f"{await hears(room):g} Hz")
                group.cancel_scope.cancel()
        worker.request_stop(timeout=0)

    assert await visit(ROOT / "examples" / "echo_audio.py", act) == ["1000 Hz"]


async def test_the_colour_bars_example_shows_its_card() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        with anyio.fail_after(10):
            with (await first_track(room)).video_frames() as frames:
                picture = await anext(frames)
            said += [bytes(picture.pixels[180, x, :3]).hex() for x in range(45, 640, 91)]
        worker.request_stop(timeout=0)

    bars = await visit(ROOT / "examples" / "colour_bars.py", act)
    assert bars == ["ffffff", "ffff00", "00ffff", "00ff00", "ff00ff", "ff0000", "0000ff"]


async def test_the_recorder_example_writes_what_it_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "lobby-alice-1.wav"

    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        with anyio.fail_after(10):
            published = await room.local_participant.publish_audio()
            # Silence, until some of it is in the file: the recorder makes the file first and listens then.
            while not await anyio.Path(file).exists() or not (await anyio.Path(file).stat()).st_size:
                await published.track.source.capture_frame()
            await published.track.source.play(sine(880, 0.5))
            await room.local_participant.unpublish_track(published.sid)
        await worker.stop()

    await visit(ROOT / "examples" / "recorder.py", act)
    with wave.open(str(file)) as recorded:
        assert (recorded.getframerate(), recorded.getnchannels(), recorded.getsampwidth()) == (48_000, 1, 2)
        samples = np.frombuffer(recorded.readframes(recorded.getnframes()), np.int16)
    assert abs(loudest(samples) - 880) < 2
    assert np.count_nonzero(samples) > 0.45 * 48_000


async def test_the_telephone_example_says_what_a_machine_without_devices_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)

    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        with anyio.fail_after(10):
            ended = await anext(worker.events(JobEnded))
        assert isinstance(ended.error, DeviceError)
        said += [ended.status.name, ended.error.code]

    assert await visit(ROOT / "examples" / "telephone.py", act) == ["FAILED", "DEVICE_UNAVAILABLE"]


async def test_the_transcriber_example_says_what_it_makes_of_each_piece() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        with anyio.fail_after(20), room.subscribe(TranscriptionReceived) as transcriptions:
            published = await room.local_participant.publish_audio()
            source = published.track.source

            async def speak() -> None:
                (_,) = [p async for p in the_agent(room)]
                while True:
                    await source.play(sine(300, 0.6))
                    await source.play(np.zeros(48_000, np.int16))

            async with anyio.create_task_group() as group:
                group.start_soon(speak)
                # The first piece may have begun before the agent listened.
                await anext(transcriptions)
                heard = await anext(transcriptions)
                group.cancel_scope.cancel()
            assert isinstance(heard, TranscriptionReceived)
            said += [heard.identity, *(segment.text for segment in heard.segments)]
            # Who hangs up in the middle of a word is not forgotten.
            await source.play(sine(300, 0.6))
            await room.local_participant.unpublish_track(published.sid)
            last = await anext(transcriptions)
            assert isinstance(last, TranscriptionReceived)
            assert last.track_sid == published.sid
        worker.request_stop(timeout=0)

    assert await visit(ROOT / "examples" / "transcriber.py", act) == ["alice", "[1.0 s of speech]"]


async def test_the_embedded_example_is_a_handler_too() -> None:
    async def act(worker: UniversalWorker, room: Room, packets: Any, said: list[str]) -> None:
        await hear(packets, said)

    assert await visit(ROOT / "examples" / "embedded.py", act) == ["served 1"]


def test_the_embedded_example_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "embedded.py")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = [line for line in done.stdout.splitlines() if not line.endswith(" s")]  # its clock, on a busy machine
    assert said == ["lobby: served 1", "closed 1"]


def test_the_policy_of_the_doorkeeper() -> None:
    from livekit_agent import Job, JobMetadata, JobType, Reject, RoomInfo

    module: Any = load_file(str(ROOT / "examples" / "doorkeeper.py"))
    del sys.modules["doorkeeper"]

    def decide(**room: Any) -> object:
        return module.decide(Job(id="AJ_1", type=JobType.ROOM, room=RoomInfo(**room)))

    assert decide(name="private-1") == Reject(reason="nobody may serve private rooms", terminate=True)
    assert decide(name="fair", num_participants=51) == Reject(reason="too crowded for this worker")
    assert isinstance(decide(name="lobby", num_participants=50), JobMetadata)


def test_the_example_with_seeds_passes(request: pytest.FixtureRequest) -> None:
    plugin = [] if request.config.pluginmanager.has_plugin("livekit_agent") else ["-p", "livekit_agent.testing._plugin"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        *plugin,
    ]
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    file = str(ROOT / "examples" / "test_with_seeds.py")
    done = subprocess.run(
        [*command, f"--rootdir={ROOT / 'examples'}", "-c", os.devnull, file],
        capture_output=True, text=True, timeout=100, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


def test_every_example_is_tried_here() -> None:
    text = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES if f'"{path.name}"' not in text] == []
