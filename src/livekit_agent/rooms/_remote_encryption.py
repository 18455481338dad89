"""Keys of a room in another process: they stay here; the server gets their digests, and compares those.

Nothing is really encrypted in rooms in memory, near or far: the server sees all media and data.  It pretends, so that
programs which encrypt can be tried, and for that it must know who has the same keys and not which.  So each key that
leaves this process is a digest, and what the library would answer at once (keys, what follows from them, who encrypts
what) is known here.  A key that follows from another one goes along as the digest of it, beside the request.
"""

from __future__ import annotations

from typing import Any

from ._memory_encryption import Keys, digest_of
from ._proto import e2ee, ffi
from ._proto import room as room_pb

__all__ = ["KeyRing"]


class KeyRing:
    """One participant's keys, and what is encrypted with them."""

    def __init__(self) -> None:
        self._keys: Keys | None = None
        self._identity = ""
        self._people: dict[str, None] = {}
        self._encrypted: dict[str, str] = {}
        """Others' encrypted tracks: sid -> whose."""
        self._subscribed: dict[str, None] = {}
        self._own: dict[str, None] = {}
        """Our tracks."""
        self._follows = b""
        """The key that follows from the one of the request under way: deriving it takes 30 ms."""

    # --- what leaves ----------------------------------------------------------------------------------------------

    def join(self, options: room_pb.RoomOptions) -> None:
        """What we join with; the key in it becomes its digest."""
        self._keys = Keys.of(options)
        for given in (options.encryption, options.e2ee):
            if given.key_provider_options.HasField("shared_key"):
                given.key_provider_options.shared_key = digest_of(given.key_provider_options.shared_key)

    def leaves(self, asked: e2ee.E2eeRequest) -> list[bytes] | None:
        """What a request becomes on its way, and what goes beside it; None: it is not sent."""
        kind = asked.WhichOneof("message") or ""
        if kind == "set_shared_key":
            asked.set_shared_key.shared_key = digest_of(asked.set_shared_key.shared_key)
        elif kind == "set_key":
            asked.set_key.key = digest_of(asked.set_key.key)
        elif kind in ("ratchet_shared_key", "ratchet_key"):
            self._follows = self._following(asked)
            return [digest_of(self._follows)] if self._follows else None
        elif kind in ("get_shared_key", "get_key", "manager_get_frame_cryptors"):
            return None
        return []

    def _following(self, asked: e2ee.E2eeRequest) -> bytes:
        keys = self._keys
        if keys is None:
            return b""
        if asked.HasField("ratchet_shared_key"):
            key = (keys.shared or {}).get(asked.ratchet_shared_key.key_index)
        else:
            key = keys.key(asked.ratchet_key.participant_identity, asked.ratchet_key.key_index)
        return b"" if key is None else keys.ratcheted(key)

    # --- what comes -----------------------------------------------------------------------------------------------

    def hear(self, event: ffi.FfiEvent) -> None:
        """An event from the server."""
        kind = event.WhichOneof("message")
        if kind == "connect":
            result = event.connect.result
            self._identity = result.local_participant.info.identity
            for entry in result.participants:
                self._people[entry.participant.info.identity] = None
                for publication in entry.publications:
                    self._published(entry.participant.info.identity, publication.info)
        elif kind == "publish_track" and event.publish_track.HasField("publication"):
            self._own[event.publish_track.publication.info.sid] = None
        elif kind == "room_event":
            self._hear_room(event.room_event)

    def _published(self, identity: str, info: Any) -> None:
        if info.encryption_type:
            self._encrypted[info.sid] = identity

    def _hear_room(self, event: room_pb.RoomEvent) -> None:
        kind = event.WhichOneof("message")
        if kind is None:
            return  # an event of a later version, or of nobody's
        told: Any = getattr(event, kind)
        if kind == "participant_connected":
            self._people[told.info.info.identity] = None
        elif kind == "participant_disconnected":
            self._people.pop(told.participant_identity, None)
        elif kind == "track_published":
            self._published(told.participant_identity, told.publication.info)
        elif kind == "track_unpublished":
            self._encrypted.pop(told.publication_sid, None)
        elif kind == "track_subscribed":
            self._subscribed[told.track.info.sid] = None
        elif kind == "track_unsubscribed":
            self._subscribed.pop(told.track_sid, None)
        elif kind == "local_track_unpublished":
            self._own.pop(told.publication_sid, None)
        elif kind == "local_track_republished":
            self._own.pop(told.previous_sid, None)
            self._own[told.info.sid] = None

    # --- what is answered -----------------------------------------------------------------------------------------

    def answer(self, asked: e2ee.E2eeRequest) -> ffi.FfiResponse:
        """The library's answer to a request about encryption."""
        response = ffi.FfiResponse()
        kind = asked.WhichOneof("message") or ""
        answer: Any = getattr(response.e2ee, kind)
        answer.SetInParent()
        if self._keys is None:
            return response
        if kind == "manager_get_frame_cryptors":
            self._list(self._keys, answer)
        elif kind != "get_key" or asked.get_key.participant_identity in (self._identity, *self._people):
            self._keys.apply(kind, getattr(asked, kind), answer, self._identity, lambda key: self._follows)
        return response

    def _list(self, keys: Keys, answer: e2ee.E2eeManagerGetFrameCryptorsResponse) -> None:
        tracks = dict.fromkeys(self._own, self._identity)
        tracks |= {sid: identity for sid, identity in self._encrypted.items() if sid in self._subscribed}
        for sid, identity in tracks.items():
            answer.frame_cryptors.append(keys.cryptor(identity, sid))
