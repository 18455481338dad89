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

from ._encryption import EncryptionState
from ._memory_rpc import MemoryPeer
from ._proto import e2ee, ffi
from ._proto import room as room_pb

__all__ = ["MemoryEncryption", "Verdict"]

_ITERATIONS = 100_000
_KEY_BYTES = 32


class Verdict(Enum):
    """What a receiver gets of a frame."""

    CLEAR = 0
    SILENCE = 1
    NOISE = 2


@dataclass(slots=True)
class _Keys:
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
    """Pairs of keys of which the second does not follow from the first: trying again would cost."""

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


class MemoryEncryption(MemoryPeer):
    """The requests about encryption, and who can read what."""

    _subscribed: dict[str, None]

    def __init__(self) -> None:
        self._keys: _Keys | None = None

    @property
    def encrypts(self) -> bool:
        """Whether we have joined with encryption."""
        return self._keys is not None

    def _join_encrypted(self, options: room_pb.RoomOptions) -> None:
        for given in (options.encryption, options.e2ee):
            if given.HasField("key_provider_options"):
                keys = given.key_provider_options
                self._keys = _Keys(keys, {0: keys.shared_key} if keys.HasField("shared_key") else None)
                return

    # --- media ----------------------------------------------------------------------------------------------------

    def seal(self, track_sid: str) -> tuple[int, bytes] | None:
        """What a frame of ours would be encrypted with; None: it goes out as it is."""
        keys = self._keys
        if keys is None or not keys.on(track_sid):
            return None
        index = keys.track_index.get(track_sid, 0)
        key = keys.key(self._identity, index)
        self._tell_state(self._identity, track_sid, EncryptionState.OK if key else EncryptionState.MISSING_KEY)
        return index, key or b""

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
        if ours != key and not self._find_key(keys, sender, track_sid, index, ours, key):
            if keys.options.failure_tolerance >= 0:
                self._tell_state(sender, track_sid, EncryptionState.DECRYPTION_FAILED)
            return Verdict.SILENCE
        self._tell_state(sender, track_sid, EncryptionState.OK)
        return Verdict.CLEAR

    def _find_key(self, keys: _Keys, sender: str, track_sid: str, index: int, ours: bytes, key: bytes) -> bool:
        """Whether the sender's key follows from ours, within the window; then it is ours now."""
        if (ours, key) in keys.hopeless:
            return False
        following = ours
        for _ in range(keys.options.ratchet_window_size):
            following = keys.ratcheted(following)
            if following == key:
                keys.own[sender, index] = key
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
        return self._keys is not None and key is not None and self._keys.key(sender._identity, theirs.latest) == key

    # --- requests -------------------------------------------------------------------------------------------------

    def _do_e2ee(self, request: e2ee.E2eeRequest) -> ffi.FfiResponse:
        self._object(request.room_handle, str)
        keys = self._keys
        kind = request.WhichOneof("message") or ""
        response = ffi.FfiResponse()
        getattr(response.e2ee, kind).SetInParent()
        if keys is not None:
            handler: Callable[[_Keys, Any, e2ee.E2eeResponse], None] = getattr(self, f"_e2ee_{kind}")
            handler(keys, getattr(request, kind), response.e2ee)
        return response

    def _e2ee_manager_set_enabled(self, keys: _Keys, request: Any, response: e2ee.E2eeResponse) -> None:
        keys.enabled = request.enabled

    def _e2ee_manager_get_frame_cryptors(self, keys: _Keys, request: Any, response: e2ee.E2eeResponse) -> None:
        for person in self._rooms.ledger.participants(self.room_name):
            publisher = self._rooms.connection(person.sid)
            for track in person.tracks if publisher is not None and publisher.encrypts else ():
                if person.sid == self.sid or track.sid in self._subscribed:
                    response.manager_get_frame_cryptors.frame_cryptors.add(
                        participant_identity=person.identity,
                        track_sid=track.sid,
                        key_index=keys.track_index.get(track.sid, 0),
                        enabled=keys.on(track.sid),
                    )

    def _e2ee_cryptor_set_enabled(self, keys: _Keys, request: Any, response: e2ee.E2eeResponse) -> None:
        keys.track_off.pop(request.track_sid, None)
        if not request.enabled:
            keys.track_off[request.track_sid] = None

    def _e2ee_cryptor_set_key_index(self, keys: _Keys, request: Any, response: e2ee.E2eeResponse) -> None:
        keys.track_index[request.track_sid] = request.key_index

    def _e2ee_set_shared_key(self, keys: _Keys, request: Any, response: e2ee.E2eeResponse) -> None:
        if keys.shared is not None:
            keys.shared[request.key_index] = request.shared_key
            keys.latest = request.key_index
            for identity, index in [place for place in keys.own if place[1] == request.key_index]:
                del keys.own[identity, index]  # found by ratcheting what is no longer there

    def _e2ee_get_shared_key(self, keys: _Keys, request: Any, response: e2ee.E2eeResponse) -> None:
        key = (keys.shared or {}).get(request.key_index)
        if key is not None:
            response.get_shared_key.key = key

    def _e2ee_ratchet_shared_key(self, keys: _Keys, request: Any, response: e2ee.E2eeResponse) -> None:
        key = (keys.shared or {}).get(request.key_index)
        if key is not None and keys.shared is not None:
            keys.shared[request.key_index] = response.ratchet_shared_key.new_key = keys.ratcheted(key)

    def _e2ee_set_key(self, keys: _Keys, request: Any, response: e2ee.E2eeResponse) -> None:
        keys.own[request.participant_identity, request.key_index] = request.key
        if request.participant_identity == self._identity:
            keys.latest = request.key_index

    def _e2ee_get_key(self, keys: _Keys, request: Any, response: e2ee.E2eeResponse) -> None:
        person = self._rooms.ledger.participant(self.room_name, request.participant_identity)
        key = None if person is None else keys.key(request.participant_identity, request.key_index)
        if key is not None:
            response.get_key.key = key

    def _e2ee_ratchet_key(self, keys: _Keys, request: Any, response: e2ee.E2eeResponse) -> None:
        key = keys.key(request.participant_identity, request.key_index)
        if key is not None:
            new = keys.ratcheted(key)
            keys.own[request.participant_identity, request.key_index] = response.ratchet_key.new_key = new
