"""What a server says ends up in logs, and logs end up in terminals and in other people's parsers.

Every text that a server can choose is a forged line with an escape sequence here; each log record must stay one line
without a control character.  Job ids too: a server makes them up.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import anyio
import pytest
from livekit.protocol import agent as pb

from livekit_agent import JobContext, JobMetadata
from livekit_agent.protocol import ServerInfo
from livekit_agent.protocol._server_side import ServerConnection

from . import harness
from .harness import Line, world

pytestmark = pytest.mark.virtual

FORGED = "x\r\nCRITICAL forged\x1b[2J\x00\x9b1m\u2028"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every server of the harness names itself and its workers like that."""
    registered = ServerConnection.registered
    monkeypatch.setattr(harness, "INFO", ServerInfo(version=FORGED, region=FORGED, node_id=FORGED))
    monkeypatch.setattr(ServerConnection, "registered", lambda self, _, info, now: registered(self, FORGED, info, now))


@pytest.mark.usefixtures("hostile")
async def test_no_text_of_a_server_reaches_the_log_with_a_control_character(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    names = {what: f"AJ_{what}{FORGED}" for what in ("runs", "hangs", "breaks", "lapses", "other", "stays")}

    async def request(job: Any) -> JobMetadata:
        if job.id == names["breaks"]:
            raise ValueError("the handler's own")
        if job.id == names["hangs"]:
            await anyio.sleep_forever()
        return JobMetadata()

    async def assigned(ctx: JobContext) -> None:
        ctx.log.info("in the job")
        if ctx.job.id == names["stays"]:
            await anyio.sleep_forever()

    def closing(line: Line) -> None:
        line.http_status = 503
        line.http_headers = {"x-note": "none"}

    async with world(assigned, callbacks={"job_request": request}, max_jobs=None, websocket_debug=True) as w:
        line = await w.gateway.registered()
        await w.give(names["runs"], room=FORGED)
        await w.gateway.end_of(names["runs"])
        await w.give(names["stays"], room=FORGED)
        line.offer(names["other"], type=pb.JT_PUBLISHER)
        line.offer(names["breaks"])
        line.offer(names["hangs"])
        line.offer(names["lapses"])
        await anyio.sleep(12)
        line.core.go_away(FORGED, anyio.current_time())
        line.pump()
        second = await w.gateway.registered(2)
        w.gateway.plan.append(closing)
        second.core.close(anyio.current_time(), 1008, FORGED)
        second.pump()
        await w.gateway.registered(4)
    lines = [record.getMessage() for record in caplog.records]
    said = "\n".join(lines)
    hints = ("registered as", "did not answer", "on_job_request failed", "not assigned", "not this worker's", "1008")
    for hint in hints:
        assert hint in said, f"no record about: {hint}"
    for record in caplog.records:
        assert not CONTROL.search(record.getMessage()), repr(record.getMessage())
        for extra in ("job_id", "room"):
            assert not CONTROL.search(str(getattr(record, extra, ""))), (extra, record)
