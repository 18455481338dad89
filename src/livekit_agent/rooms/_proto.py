"""The message classes of the native library, loaded without the rest of ``livekit.rtc``.

``import livekit.rtc`` costs half a second: it imports asyncio (which a trio program must not need) and numpy, and its
client would take the library's one callback away from ours.  Its message classes are plain generated modules, so they
are imported under a stub parent package that exists only meanwhile.  A later, real ``import livekit.rtc`` finds them
in ``sys.modules`` and shares them.

This module and ``_ffi`` are the only ones that know where the ``livekit`` package keeps its things.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livekit.rtc._proto import audio_frame_pb2 as audio
    from livekit.rtc._proto import data_stream_pb2 as data_stream
    from livekit.rtc._proto import data_track_pb2 as data_track
    from livekit.rtc._proto import e2ee_pb2 as e2ee
    from livekit.rtc._proto import ffi_pb2 as ffi
    from livekit.rtc._proto import handle_pb2 as handle
    from livekit.rtc._proto import participant_pb2 as participant
    from livekit.rtc._proto import room_pb2 as room
    from livekit.rtc._proto import rpc_pb2 as rpc
    from livekit.rtc._proto import stats_pb2 as stats
    from livekit.rtc._proto import track_pb2 as track
    from livekit.rtc._proto import track_publication_pb2 as track_publication
    from livekit.rtc._proto import video_frame_pb2 as video

__all__ = [
    "SUPPORTED",
    "audio",
    "data_stream",
    "data_track",
    "e2ee",
    "ffi",
    "handle",
    "installed_version",
    "package_path",
    "participant",
    "room",
    "rpc",
    "stats",
    "track",
    "track_publication",
    "video",
]

SUPPORTED = ((1, 2), (1, 3))
"""The ``livekit`` versions whose messages and behaviour were checked: from, up to but not including."""

_PACKAGE = "livekit.rtc"
_lock = threading.Lock()


def installed_version() -> str:
    """The installed ``livekit`` distribution's version."""
    return importlib.metadata.version("livekit")


def package_path() -> str:
    """The directory of ``livekit.rtc``, found without importing it."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the livekit package is not installed (pip install 'livekit>=1.2,<1.3')")
    return spec.submodule_search_locations[0]


def _load() -> dict[str, ModuleType]:
    """Import the generated modules; under a stub parent unless ``livekit.rtc`` is there already."""
    names = {
        "audio": "audio_frame_pb2",
        "data_stream": "data_stream_pb2",
        "data_track": "data_track_pb2",
        "e2ee": "e2ee_pb2",
        "ffi": "ffi_pb2",
        "handle": "handle_pb2",
        "participant": "participant_pb2",
        "room": "room_pb2",
        "rpc": "rpc_pb2",
        "stats": "stats_pb2",
        "track": "track_pb2",
        "track_publication": "track_publication_pb2",
        "video": "video_frame_pb2",
    }
    with _lock:
        stub: ModuleType | None = None
        if _PACKAGE not in sys.modules:
            path = package_path()
            stub = ModuleType(_PACKAGE)
            stub.__path__ = [path]
            sys.modules[_PACKAGE] = stub
        try:
            return {key: importlib.import_module(f"{_PACKAGE}._proto.{name}") for key, name in names.items()}
        finally:
            if stub is not None:
                if sys.modules.get(_PACKAGE) is stub:
                    del sys.modules[_PACKAGE]
                parent = sys.modules.get("livekit")
                if parent is not None and getattr(parent, "rtc", None) is stub:
                    delattr(parent, "rtc")


if not TYPE_CHECKING:
    globals().update(_load())
