"""Rooms in memory: end-to-end encryption, as who can hear whom.

Nothing is really encrypted; but every frame and every packet carries which key it would be encrypted with, and whoever
receives it has that key or not.  As observed on a real server: a wrong or missing key is silence, media without any
decryption are noise, data that cannot be decrypted do not arrive, and plain data always do.  Ratcheting is the
library's own (PBKDF2), so that keys agree with those of real participants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .._errors import RoomError
from ._encryption import EncryptionState
from ._memory_rpc import MemoryPeer
from ._proto import e2ee, ffi
from ._proto import room as room_pb

__all__ = ["Keys", "MemoryEncryption", "Verdict", "digest_of"]

_ITERATIONS = 100_000
_KEY_BYTES = 32


class Verdict(Enum):
    """What a receiver gets of a frame."""

    CLEAR = 0
    SILENCE = 1
    NOISE = 2


@dataclass(slots=True)
class Keys:
    """One participant's keys and settings."""

    options: e2ee.KeyProviderOptions
    shared: dict[int, bytes] | None
    own: dict[tuple[str, int], bytes] = field(default_factory=dict[tuple[str, int], bytes])
    enabled: bool = True
    latest: int = 0
    track_index: dict[str, int] = field(default_factory=dict[str, int])
    track_off: dict[str, None] = field(default_factory=dict[str, None])
    states: dict[str, EncryptionState] = field(default_factory=dict[str, EncryptionState])
    hopeless: dict[tuple[bytes, bytes], None] = field(default_factory=dict[tuple[bytes, bytes], None])
    """Pairs of keys of which the second does not follow from the first: trying again would cost.  None without a
    window, which is all that those in other processes have: they could make it long."""

    def key(self, identity: str, index: int) -> bytes | None:
        """What decrypts that participant; its own key outranks the shared one."""
        return self.own.get((identity, index)) or (self.shared or {}).get(index)

    def on(self, track_sid: str) -> bool:
        """Whether that track is encrypted, or decrypted."""
        return self.enabled and track_sid not in self.track_off

    def ratcheted(self, key: bytes) -> bytes:
        """The key that follows."""
        salt = self.options.ratchet_salt
        if self.options.key_derivation_function == e2ee.HKDF:
            pseudorandom = hashlib.sha256(salt + key).digest()
            return hashlib.sha256(pseudorandom + b"\x01").digest()
        return hashlib.pbkdf2_hmac("sha256", key, salt, _ITERATIONS, _KEY_BYTES)

    @classmethod
    def of(cls, options: room_pb.RoomOptions) -> Keys | None:
        """What somebody joins with; None: without encryption."""
        for given in (options.encryption, options.e2ee):
            if given.HasField("key_provider_options"):
                keys = given.key_provider_options
                return cls(keys, {0: keys.shared_key} if keys.HasField("shared_key") else None)
        return None

    @property
    def count(self) -> int:
        """How many keys and settings there are."""
        return len(self.shared or ()) + len(self.own) + len(self.track_index) + len(self.track_off)

    def cryptor(self, identity: str, sid: str) -> e2ee.FrameCryptor:
        """What encrypts or decrypts that track."""
        index = self.track_index.get(sid, 0)
        return e2ee.FrameCryptor(participant_identity=identity, track_sid=sid, key_index=index, enabled=self.on(sid))

    def apply(self, kind: str, request: Any, response: Any, identity: str, ratcheted: Callable[[bytes], bytes]) -> None:
        """A request about keys of participant ``identity``, and the answer to it."""
        getattr(self, f"_{kind}")(request, response, identity, ratcheted)

    def _manager_set_enabled(self, request: Any, response: Any, *_: object) -> None:
        self.enabled = request.enabled

    def _cryptor_set_enabled(self, request: Any, response: Any, *_: object) -> None:
        self.track_off.pop(request.track_sid, None)
        if not request.enabled:
            self.track_off[request.track_sid] = None

    def _cryptor_set_key_index(self, request: Any, response: Any, *_: object) -> None:
        self.track_index[request.track_sid] = request.key_index

    def _set_shared_key(self, request: Any, response: Any, *_: object) -> None:
        if self.shared is not None:
            self.shared[request.key_index] = request.shared_key
            self.latest = request.key_index
            for identity, index in [place for place in self.own if place[1] == request.key_index]:
                del self.own[identity, index]  # found by ratcheting what is no longer there

    def _get_shared_key(self, request: Any, response: Any, *_: object) -> None:
        key = (self.shared or {}).get(request.key_index)
        if key is not None:
            response.key = key

    def _ratchet_shared_key(
        self, request: Any, response: Any, identity: str, ratcheted: Callable[[bytes], bytes]
    ) -> None:
        key = (self.shared or {}).get(request.key_index)
        if key is not None and self.shared is not None:
            self.shared[request.key_index] = response.new_key = ratcheted(key)

    def _set_key(self, request: Any, response: Any, identity: str, *_: object) -> None:
        self.own[request.participant_identity, request.key_index] = request.key
        if request.participant_identity == identity:
            self.latest = request.key_index

    def _get_key(self, request: Any, response: Any, *_: object) -> None:
        key = self.key(request.participant_identity, request.key_index)
        if key is not None:
            response.key = key

    def _ratchet_key(self, request: Any, response: Any, identity: str, ratcheted: Callable[[bytes], bytes]) -> None:
        key = self.key(request.participant_identity, request.key_index)
        if key is not None:
            new = ratcheted(key)
            self.own[request.participant_identity, request.key_index] = response.new_key = new


def digest_of(key: bytes) -> bytes:
    """What stands for a key where only equality counts."""
    return hashlib.sha256(b"livekit-agent-sdk key " + key).digest()


class MemoryEncryption(MemoryPeer):
    """The requests about encryption, and who can read what."""

    _subscribed: dict[str, None]
    remote: bool

    def __init__(self) -> None:
        self._keys: Keys | None = None
        self.follows = b""
        """The key that follows from the one that is ratcheted next, where that is known elsewhere."""

    @property
    def encrypts(self) -> bool:
        """Whether we have joined with encryption."""
        return self._keys is not None

    def _join_encrypted(self, options: room_pb.RoomOptions) -> None:
        self._keys = Keys.of(options)
        if self._keys is not None and self.remote:
            # What follows from a digest is nothing.
            self._keys.options.ratchet_window_size = 0

    # --- media ----------------------------------------------------------------------------------------------------

    def seal(self, track_sid: str) -> tuple[int, bytes] | None:
        """What a frame of ours would be encrypted with; None: it goes out as it is."""
        keys = self._keys
        if keys is None or not keys.on(track_sid):
            return None
        index = keys.track_index.get(track_sid, 0)
        key = keys.key(self._identity, index)
        self._tell_state(self._identity, track_sid, EncryptionState.OK if key else EncryptionState.MISSING_KEY)
        return index, self._compared(key) if key else b""

    @property
    def key_count(self) -> int:
        """How many keys and settings we have."""
        return 0 if self._keys is None else self._keys.count

    def _compared(self, key: bytes) -> bytes:
        """The digest of a key; of a participant in another process that is all that is known."""
        return key if self.remote else digest_of(key)

    def unseal(self, sender: str, track_sid: str, sealed: tuple[int, bytes] | None) -> Verdict:
        """What we get of it."""
        keys = self._keys
        if keys is None or not keys.on(track_sid):
            return Verdict.CLEAR if sealed is None else Verdict.NOISE
        if sealed is None:
            self._tell_state(sender, track_sid, EncryptionState.DECRYPTION_FAILED)
            return Verdict.SILENCE
        index, key = sealed
        ours = keys.key(sender, index)
        if ours is None:
            self._tell_state(sender, track_sid, EncryptionState.MISSING_KEY)
            return Verdict.SILENCE
        if self._compared(ours) != key and not self._find_key(keys, sender, track_sid, index, ours, key):
            if keys.options.failure_tolerance >= 0:
                self._tell_state(sender, track_sid, EncryptionState.DECRYPTION_FAILED)
            return Verdict.SILENCE
        self._tell_state(sender, track_sid, EncryptionState.OK)
        return Verdict.CLEAR

    def _find_key(self, keys: Keys, sender: str, track_sid: str, index: int, ours: bytes, key: bytes) -> bool:
        """Whether the sender's key follows from ours, within the window; then it is ours now."""
        window = keys.options.ratchet_window_size
        if not window or (ours, key) in keys.hopeless:
            return False
        following = ours
        for _ in range(window):
            following = keys.ratcheted(following)
            if digest_of(following) == key:
                keys.own[sender, index] = following
                self._tell_state(sender, track_sid, EncryptionState.KEY_RATCHETED)
                return True
        keys.hopeless[ours, key] = None
        return False

    def _tell_state(self, identity: str, track_sid: str, state: EncryptionState) -> None:
        assert self._keys is not None
        if self._keys.states.get(track_sid) is not state:
            self._keys.states[track_sid] = state
            number: Any = state.value
            changed = room_pb.E2eeStateChanged(participant_identity=identity, state=number)
            self._tell(e2ee_state_changed=changed)

    # --- data -----------------------------------------------------------------------------------------------------

    def can_read(self, sender: MemoryEncryption) -> bool:
        """Whether we can decrypt the data that somebody sends now; plain ones everybody can read."""
        theirs = sender._keys
        if theirs is None:
            return True
        key = theirs.key(sender._identity, theirs.latest)
        ours = None if self._keys is None else self._keys.key(sender._identity, theirs.latest)
        return key is not None and ours is not None and self._compared(ours) == sender._compared(key)

    # --- requests -------------------------------------------------------------------------------------------------

    def _do_e2ee(self, request: e2ee.E2eeRequest) -> ffi.FfiResponse:
        self._object(request.room_handle, str)
        keys = self._keys
        kind = request.WhichOneof("message") or ""
        if not kind:
            raise RoomError("a request about encryption that asks for nothing")
        response = ffi.FfiResponse()
        answer: Any = getattr(response.e2ee, kind)
        answer.SetInParent()
        asked: Any = getattr(request, kind)
        if keys is None:
            return response
        if kind == "manager_get_frame_cryptors":
            self._list_cryptors(keys, answer)
        elif kind != "get_key" or self._rooms.ledger.participant(self.room_name, asked.participant_identity):
            keys.apply(kind, asked, answer, self._identity, self._told if self.remote else keys.ratcheted)
        return response

    def _told(self, key: bytes) -> bytes:
        return self.follows

    def _list_cryptors(self, keys: Keys, response: e2ee.E2eeManagerGetFrameCryptorsResponse) -> None:
        for person in self._rooms.ledger.participants(self.room_name):
            publisher = self._rooms.connection(person.sid)
            for track in person.tracks if publisher is not None and publisher.encrypts else ():
                if person.sid == self.sid or track.sid in self._subscribed:
                    response.frame_cryptors.append(keys.cryptor(person.identity, track.sid))
