"""The room dies under the agent, on a real server: what the handler sees, how its job ends, what is left.

Most of this is waiting for the library to believe it (15 s for silence, some 25 s for a server that stays away), so the
cases run side by side, each on a server of its own.  The network cut is real: that server lives behind a pair of
virtual interfaces, one of which goes down.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from backdrop import RealBackdrop, unique
from realserver import HOW_TO_GET_IT, NO_INTERFACE, RealServer, find_server, skip_or_fail, usable_interface

from livekit_agent import BaseHandler, JobContext, JobStatus, UniversalWorker, events
from livekit_agent.rooms import DisconnectReason

pytestmark = [pytest.mark.real_server, pytest.mark.timeout(180)]

OUTSIDE, ACROSS = "10.98.0.1", "10.98.0.2"


@contextmanager
def another_network() -> Iterator[tuple[list[str], str]]:
    """A network namespace joined to ours by a cable: how to run something there, and our end of the cable."""
    ours, theirs = f"lka{os.getpid() % 10_000}", f"lkb{os.getpid() % 10_000}"
    holder = subprocess.Popen(["unshare", "-n", "sleep", "300"])
    try:
        there = ["nsenter", "-t", str(holder.pid), "-n"]
        # `unshare` has made the namespace once the two differ.
        here = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{holder.pid}/ns/net") == here:
            pass
        for command in (
            ["ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", str(holder.pid)],
            ["ip", "addr", "add", f"{OUTSIDE}/24", "dev", ours],
            ["ip", "link", "set", ours, "up"],
            [*there, "ip", "addr", "add", f"{ACROSS}/24", "dev", theirs],
            [*there, "ip", "link", "set", theirs, "up"],
            [*there, "ip", "link", "set", "lo", "up"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        yield there, ours
    finally:
        holder.kill()
        holder.wait()
        subprocess.run(["ip", "link", "del", ours], check=False, capture_output=True)


def switch(interface: str, state: str) -> None:
    subprocess.run(["ip", "link", "set", interface, state], check=True)


def server_binary() -> str:
    binary = find_server()
    if binary is None:
        skip_or_fail(HOW_TO_GET_IT)
        raise AssertionError("unreachable")
    if not usable_interface():
        skip_or_fail(NO_INTERFACE)
    return binary


class Witness(BaseHandler):
    """Writes down what happens to its room; ends when it is told to."""

    def __init__(self) -> None:
        self.job_id = ""
        self.cancelled = False
        self.terminated: list[str] = []
        self.running, self.finish = anyio.Event(), anyio.Event()
        self.subscription: Any = None

    async def on_job_assigned(self, ctx: JobContext) -> None:
        self.job_id = ctx.job.id
        self.subscription = ctx.room.subscribe(events.Reconnecting, events.Reconnected, events.Disconnected)
        self.running.set()
        try:
            await self.finish.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled = True
            raise

    async def on_job_terminated(self, job_id: str) -> None:
        self.terminated.append(job_id)


class Case:
    """A worker with a job on a server of its own."""

    def __init__(self, server: RealServer) -> None:
        self.server = server
        self.witness = Witness()
        self.stage = RealBackdrop(server)
        self.worker: UniversalWorker
        self.ends: Any
        self.room = unique("room")
        self.seen: list[str] = []
        self.reason: int | None = None
        self._news = anyio.Event()

    async def __aenter__(self) -> Case:
        self.server.start()
        name = unique("witness")
        self.worker = self.stage.worker(self.witness, agent_name=name, allow_plaintext=True)
        async with AsyncExitStack() as stack:
            stack.callback(self.server.kill)
            await stack.enter_async_context(self.worker)
            await self.stage.registered(self.worker)
            self.ends = self.worker.events(events.JobEnded)
            await self.stage.dispatch(self.room, name)
            with anyio.fail_after(20):
                await self.witness.running.wait()
            group = await stack.enter_async_context(anyio.create_task_group())
            group.start_soon(self._watch)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._stack.__aexit__(*exc)

    async def _watch(self) -> None:
        """What the room says, in order, also after the handler is gone: the last word is Disconnected."""
        async for event in self.witness.subscription:
            self.seen.append(type(event).__name__)
            if isinstance(event, events.Disconnected):
                self.reason = event.reason
            self._news.set()
            self._news = anyio.Event()

    async def hears(self, event: str) -> None:
        with anyio.fail_after(40):
            while event not in self.seen:
                await self._news.wait()

    async def end(self) -> events.JobEnded:
        with anyio.fail_after(60):
            async for event in self.ends:
                assert isinstance(event, events.JobEnded)
                assert self.witness.terminated == [event.job.id]
                return event
        raise AssertionError("the worker's events ended first")


async def killed_for_good(server: RealServer) -> None:
    async with Case(server) as case:
        server.kill()
        await case.hears("Reconnecting")
        end = await case.end()
        assert (end.status, end.reason) == (JobStatus.FAILED, "connection to the room lost")
        assert case.witness.cancelled
        assert (case.seen, case.reason) == (["Reconnecting", "Disconnected"], DisconnectReason.UNKNOWN)


async def frozen_for_a_while(server: RealServer) -> None:
    async with Case(server) as case:
        server.freeze()
        await case.hears("Reconnecting")
        server.thaw()
        await case.hears("Reconnected")
        case.witness.finish.set()
        end = await case.end()
        assert (end.status, end.error) == (JobStatus.SUCCESS, None)
        await case.hears("Disconnected")
        assert case.seen == ["Reconnecting", "Reconnected", "Disconnected"]
        assert not case.witness.cancelled


async def cut_for_a_while(server: RealServer, cable: str) -> None:
    async with Case(server) as case:
        switch(cable, "down")
        await case.hears("Reconnecting")
        switch(cable, "up")
        await case.hears("Reconnected")
        assert await case.stage.identities(case.room) == [f"agent-{case.witness.job_id}"]
        case.witness.finish.set()
        end = await case.end()
        assert (end.status, end.error) == (JobStatus.SUCCESS, None)
        await case.hears("Disconnected")
        assert case.seen == ["Reconnecting", "Reconnected", "Disconnected"]
        assert not case.witness.cancelled


async def replaced_by_another(server: RealServer) -> None:
    async with Case(server) as case:
        async with case.stage.join(case.room, f"agent-{case.witness.job_id}"):
            end = await case.end()
            assert (end.status, end.reason) == (JobStatus.FAILED, "another participant took the agent's identity")
        assert case.witness.cancelled
        assert (case.seen, case.reason) == (["Disconnected"], DisconnectReason.DUPLICATE_IDENTITY)


async def test_the_handler_sees_what_becomes_of_its_room(tmp_path: Path) -> None:
    binary = server_binary()
    with another_network() as (there, cable):
        across = RealServer(
            binary, tmp_path, name="across", address=ACROSS, interface=cable.replace("lka", "lkb"), inside=there
        )
        async with anyio.create_task_group() as group:
            group.start_soon(killed_for_good, RealServer(binary, tmp_path, name="killed"))
            group.start_soon(frozen_for_a_while, RealServer(binary, tmp_path, name="frozen"))
            group.start_soon(cut_for_a_while, across, cable)
            group.start_soon(replaced_by_another, RealServer(binary, tmp_path, name="replaced"))


if sys.platform != "linux":
    pytestmark.append(pytest.mark.skip(reason="network namespaces are Linux's"))
