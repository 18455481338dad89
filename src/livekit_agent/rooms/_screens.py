"""The screen as pictures, by way of ``mss``: X11, macOS, Windows.

A picture is taken when it is asked for, and not before its time: who reads slowly gets fewer, nothing waits anywhere.
Taking one may block, so it happens in a thread (``_devices.Desk``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.lowlevel

from .._errors import DeviceError, printable
from ._devices import EXTRA, Desk, device_library
from ._frames import VideoFormat, VideoFrame, check_picture

__all__ = ["Screen", "ScreenCapture", "open_screen", "screens"]

_HINT = "X11 needs DISPLAY to name a running server that lets you in; on macOS allow the program to record the screen"
_DESK = Desk("screen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """A screen, or any rectangle of the desktop: ``dataclasses.replace(screen, width=640, height=360)``."""

    left: int
    top: int
    width: int
    height: int
    name: str = ""
    """What the system calls its output, where it tells."""
    is_primary: bool = False

    def __post_init__(self) -> None:
        check_picture(self.width, self.height)


class _Grabber(Protocol):
    """``mss.MSS``."""

    @property
    def monitors(self) -> list[dict[str, Any]]: ...
    def grab(self, monitor: Mapping[str, int]) -> Any: ...
    def close(self) -> None: ...


async def screens() -> tuple[Screen, ...]:
    """The screens of this machine.  Raises :class:`DeviceError` ``DEVICE_UNAVAILABLE`` where there is none."""

    def look() -> tuple[Screen, ...]:
        grabber = _connected()
        try:
            return _screens_of(grabber)
        finally:
            _close(grabber)

    return await _DESK.ask(look)


class ScreenCapture:
    """Pictures of a screen (:func:`open_screen`); iterate with ``async for``.  For one consumer."""

    def __init__(self, screen: Screen, fps: float, grab: Callable[[], VideoFrame]) -> None:
        self.screen = screen
        """What is captured."""
        self.fps = fps
        self._grab = grab
        self._due = 0.0

    def __aiter__(self) -> ScreenCapture:
        return self

    async def __anext__(self) -> VideoFrame:
        """The next picture, as the screen is then: BGRA, opaque.

        Not earlier than ``1 / fps`` after the one before.  Raises :class:`DeviceError` when the screen is gone.
        """
        await anyio.lowlevel.checkpoint()
        await anyio.sleep_until(self._due)
        self._due = anyio.current_time() + 1 / self.fps
        return await _DESK.ask(self._grab)


@asynccontextmanager
async def open_screen(screen: Screen | None = None, *, fps: float = 10.0) -> AsyncGenerator[ScreenCapture]:
    """Capture a screen: ``async with open_screen() as pictures:``, then ``async for picture in pictures``.

    ``screen`` is one of :func:`screens`, or a rectangle; None: the primary one.  At most ``fps`` pictures a second.
    Publish them with ``VideoSource(width, height, screencast=True)``.  Raises :class:`DeviceError` when there is no
    screen.
    """
    if not 0 < fps <= 240:
        raise ValueError(f"no {fps} pictures a second")

    def connect() -> tuple[_Grabber, Screen]:
        grabber = _connected()
        try:
            return grabber, screen or _primary(_screens_of(grabber))
        except BaseException:
            _close(grabber)
            raise

    grabber, chosen = await _DESK.ask(connect, undo=lambda made: _close(made[0]))
    area = {"left": chosen.left, "top": chosen.top, "width": chosen.width, "height": chosen.height}
    try:
        yield ScreenCapture(chosen, fps, lambda: _picture(grabber, area))
    finally:
        await _DESK.close(lambda: _close(grabber))


# --- in a thread --------------------------------------------------------------------------------------------------


def _connected() -> _Grabber:
    mss = device_library("mss", EXTRA)
    with _typed_errors(mss, "there is no screen here", "DEVICE_UNAVAILABLE"):
        return mss.MSS()


def _screens_of(grabber: _Grabber) -> tuple[Screen, ...]:
    # The first is all of them in one.
    found = grabber.monitors[1:]
    if not found:
        raise DeviceError("this machine has no screen", code="DEVICE_UNAVAILABLE", hint=_HINT)
    return tuple(
        Screen(
            left=monitor["left"],
            top=monitor["top"],
            width=monitor["width"],
            height=monitor["height"],
            name=str(monitor.get("output") or monitor.get("name") or ""),
            is_primary=bool(monitor.get("is_primary")) or len(found) == 1,
        )
        for monitor in found
    )


def _primary(found: tuple[Screen, ...]) -> Screen:
    return next((screen for screen in found if screen.is_primary), found[0])


def _picture(grabber: _Grabber, area: Mapping[str, int]) -> VideoFrame:
    with _typed_errors(device_library("mss", EXTRA), "no picture of the screen", "DEVICE_LOST"):
        shot = grabber.grab(area)
        # X11 leaves the fourth byte of each pixel at nothing, which receivers would read as transparent.
        pixels = bytearray(shot.bgra)
    pixels[3::4] = b"\xff" * (len(pixels) // 4)
    return VideoFrame(
        data=bytes(pixels), width=int(shot.size.width), height=int(shot.size.height), format=VideoFormat.BGRA
    )


def _close(grabber: _Grabber) -> None:
    # A connection whose server has ended says so here; there is nothing left to give back.
    try:
        grabber.close()
    except device_library("mss", EXTRA).ScreenShotError:
        pass


@contextmanager
def _typed_errors(mss: Any, what: str, code: str) -> Generator[None]:
    """mss' errors as ours.  It asserts, rather than raises, when the X server is gone."""
    try:
        yield
    except (mss.ScreenShotError, AssertionError, OSError) as exc:
        raise DeviceError(f"{what}: {printable(str(exc)) or type(exc).__name__}", code=code, hint=_HINT) from exc
