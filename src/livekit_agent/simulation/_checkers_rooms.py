"""R1 to R4: media in rooms.  Pure: layer 2.

Speakers number their frames, so a listener can tell which it got.  A stream is known by its participant and its handle;
the rooms say when one is opened and closed, the listener what it got of it.
"""

from __future__ import annotations

from itertools import pairwise

from ._judge import Checker, Jury
from ._trace import Note

__all__ = ["ROOMS"]


class R1_no_frame_after_unsubscribing(Checker):
    """When a track was given up, no frame of it arrives any more."""

    watches = ("media unsubscribed", "media heard")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._received: dict[str, int] = {}

    def look(self, note: Note) -> None:
        stream = str(note.data["stream"])
        if note.kind == "unsubscribed":
            self._received[stream] = _count(note, "received")
        elif stream in self._received:
            more = _count(note, "received") - self._received[stream]
            self.judge(more == 0, f"{more} frames of {stream} arrived after it was given up")


class R2_frames_in_order(Checker):
    """The frames of a track are heard in the order in which they were said, each once."""

    watches = ("media heard",)

    def look(self, note: Note) -> None:
        frames = note.data["frames"]
        numbers = [int(number) for number in frames] if isinstance(frames, tuple | list) else []
        wrong = [later for earlier, later in pairwise(numbers) if later <= earlier]
        self.judge(not wrong, f"{note.data['stream']}: frame {wrong[:1]} came late or twice in {numbers}")


class R3_queues_are_bounded(Checker):
    """No more frames wait than the queue holds, and each that arrived was read, dropped and counted, or waits."""

    watches = ("media heard",)

    def look(self, note: Note) -> None:
        stream, peak, capacity = note.data["stream"], _count(note, "peak"), _count(note, "capacity")
        self.judge(peak <= capacity, f"{stream}: {peak} waited, {capacity} may")
        if not note.data["abandoned"]:
            received = _count(note, "received")
            known = sum(_count(note, name) for name in ("read", "dropped", "waiting"))
            self.judge(known == received, f"{stream}: {received} arrived, {known} are accounted for")


class R4_streams_are_closed_once(Checker):
    """Every stream that was opened is closed, once."""

    watches = ("media opened", "media closed", "media stray")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._open: dict[str, None] = {}

    def look(self, note: Note) -> None:
        stream = str(note.data["stream"])
        if note.kind == "opened":
            self._open[stream] = None
        elif note.kind == "stray":
            self.judge(False, f"{stream} was given back and is none, or no more")
        else:
            self.judge(stream in self._open, f"{stream} was closed twice")
            self._open.pop(stream, None)

    def finish(self) -> None:
        for stream in self._open:
            self.judge(False, f"{stream} was never closed")


ROOMS: tuple[type[Checker], ...] = (
    R1_no_frame_after_unsubscribing,
    R2_frames_in_order,
    R3_queues_are_bounded,
    R4_streams_are_closed_once,
)


def _count(note: Note, name: str) -> int:
    value = note.data[name]
    return value if isinstance(value, int) else 0
