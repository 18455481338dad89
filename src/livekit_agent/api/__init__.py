"""LiveKit's HTTP API on trio and asyncio: dispatches, rooms and telephones, on a real server or the embedded one.

::

    async with LiveKitAPI(url, api_key, api_secret) as api:
        await api.dispatch.create("my-room", "my-agent")

httpx and the message classes are loaded when :class:`LiveKitAPI` is first named.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._errors import ApiError as ApiError
    from ._client import LiveKitAPI as LiveKitAPI
    from ._dispatch import DispatchApi as DispatchApi
    from ._rooms import RoomApi as RoomApi
    from ._sip import SipApi as SipApi
    from ._types import Dispatch as Dispatch
    from ._types import DispatchedJob as DispatchedJob
    from ._types import RoomAgent as RoomAgent
    from ._types import SipCall as SipCall

# public name -> the module that holds it
_HOMES = {
    "ApiError": ".._errors",
    "Dispatch": "._types",
    "DispatchApi": "._dispatch",
    "DispatchedJob": "._types",
    "LiveKitAPI": "._client",
    "RoomAgent": "._types",
    "RoomApi": "._rooms",
    "SipApi": "._sip",
    "SipCall": "._types",
}

__all__ = [
    "ApiError", "Dispatch", "DispatchApi", "DispatchedJob", "LiveKitAPI", "RoomAgent", "RoomApi", "SipApi", "SipCall",
]  # fmt: skip


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value
