"""End-to-end encryption: keys, who uses which, and what became of it.

The library encrypts; a server sees neither media nor data.  Two ways, chosen when joining: one *shared key* for
everybody, or *keys of each participant's own*, which somebody hands around.  A key has an index in a ring, so that it
can be replaced: everybody learns the new one under another index, then senders go over to it.

Keys are in no ``repr``, no log line and no error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from .._errors import RoomError
from ._enums import known
from ._link import Link
from ._proto import e2ee, ffi

if TYPE_CHECKING:
    from ._model import LocalState

__all__ = ["Encryption", "EncryptionState", "EncryptionType", "FrameCryptor", "KeyDerivation", "RoomEncryption"]


class EncryptionType(IntEnum):
    """How a track is encrypted."""

    NONE = 0
    GCM = 1
    CUSTOM = 2


class EncryptionState(IntEnum):
    """What became of a participant's encrypted media here."""

    NEW = 0
    OK = 1
    ENCRYPTION_FAILED = 2
    DECRYPTION_FAILED = 3
    """The key is another one, or the sender has ceased to encrypt."""
    MISSING_KEY = 4
    """There is no key under the sender's index."""
    KEY_RATCHETED = 5
    """The key was found by ratcheting ours."""
    INTERNAL_ERROR = 6


class KeyDerivation(IntEnum):
    """How keys are made from what is given."""

    PBKDF2 = 0
    HKDF = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """How to encrypt (``ConnectOptions.encryption``).  All in a room must choose the same salt and derivation."""

    shared_key: bytes | None = field(default=None, repr=False)
    """One key for everybody, at index 0; None: each participant has keys of its own (``set_key``)."""
    ratchet_salt: bytes = b"LKFrameEncryptionKey"
    ratchet_window: int = 0
    """How many ratchets of a key to try on what it does not decrypt.  With a wrong key each try of each frame costs
    30 ms: 16, as other clients have it, leaves such a track silent, without a word, for good."""
    failure_tolerance: int = 10
    """After how many frames that do not decrypt a key counts as wrong, which is told; -1: never."""
    key_ring_size: int = 16
    derivation: KeyDerivation = KeyDerivation.PBKDF2

    def __post_init__(self) -> None:
        if self.shared_key is not None and not self.shared_key:
            raise ValueError("an empty key does not encrypt; None means that participants have keys of their own")
        if not 1 <= self.key_ring_size <= 256:
            raise ValueError("a key ring has 1 to 256 places")

    def message(self) -> e2ee.E2eeOptions:
        """As the library's message."""
        derivation: Any = self.derivation.value
        keys = e2ee.KeyProviderOptions(
            ratchet_window_size=self.ratchet_window,
            ratchet_salt=self.ratchet_salt,
            failure_tolerance=self.failure_tolerance,
            key_ring_size=self.key_ring_size,
            key_derivation_function=derivation,
        )
        if self.shared_key is not None:
            keys.shared_key = self.shared_key
        return e2ee.E2eeOptions(encryption_type=e2ee.GCM, key_provider_options=keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameCryptor:
    """What encrypts or decrypts one track."""

    identity: str
    """Whose track: ours is encrypted, others' are decrypted."""
    track_sid: str
    key_index: int
    enabled: bool


class RoomEncryption:
    """A room's encryption (``room.encryption``).  All calls are synchronous.

    Raises :class:`RoomClosedError` when the room is over and :class:`RoomError` ``ROOM_NOT_ENCRYPTED`` when it was
    joined without :class:`Encryption`.
    """

    def __init__(self, link: Link, local: LocalState, options: Encryption | None) -> None:
        self._link = link
        self._local = local
        self._options = options
        self._enabled = link.decrypts = options is not None

    def __repr__(self) -> str:
        kind = "off" if self._options is None else "shared key" if self.shared else "keys of their own"
        return f"<RoomEncryption: {kind}{', disabled' * (self._options is not None and not self._enabled)}>"

    @property
    def available(self) -> bool:
        """Whether the room was joined with encryption."""
        return self._options is not None

    @property
    def enabled(self) -> bool:
        """Whether our media are encrypted, and others' decrypted."""
        return self._enabled

    @property
    def shared(self) -> bool:
        """Whether there is one key for everybody."""
        return self._options is not None and self._options.shared_key is not None

    def set_enabled(self, enabled: bool) -> None:
        """Encrypt and decrypt media, or no longer.  Data stay encrypted.  All must agree: others hear nothing else."""
        self._ask(manager_set_enabled=e2ee.E2eeManagerSetEnabledRequest(enabled=enabled))
        self._enabled = self._link.decrypts = enabled

    # --- the shared key -------------------------------------------------------------------------------------------

    def set_shared_key(self, key: bytes, *, index: int = 0) -> None:
        """Replace the key at ``index``."""
        self._check_shared()
        self._check_key(key, index)
        self._ask(set_shared_key=e2ee.SetSharedKeyRequest(shared_key=key, key_index=index))

    def shared_key(self, *, index: int = 0) -> bytes | None:
        """The key at ``index``; None if there is none."""
        self._check_shared()
        self._check_index(index)
        answer = self._ask(get_shared_key=e2ee.GetSharedKeyRequest(key_index=index)).get_shared_key
        return answer.key if answer.HasField("key") else None

    def ratchet_shared_key(self, *, index: int = 0) -> bytes:
        """Replace the key at ``index`` by one that follows from it, and return that.  Takes some 30 ms."""
        self._check_shared()
        self._check_index(index)
        answer = self._ask(ratchet_shared_key=e2ee.RatchetSharedKeyRequest(key_index=index)).ratchet_shared_key
        return self._ratcheted(answer.new_key, index)

    # --- a participant's own key ----------------------------------------------------------------------------------

    def set_key(self, identity: str, key: bytes, *, index: int = 0) -> None:
        """A participant's key, ourselves included: ours encrypts, others' decrypt.  It outranks a shared one."""
        self._check_key(key, index)
        self._ask(set_key=e2ee.SetKeyRequest(participant_identity=identity, key=key, key_index=index))

    def key(self, identity: str, *, index: int = 0) -> bytes | None:
        """A participant's key at ``index``; None if there is none."""
        self._check_index(index)
        answer = self._ask(get_key=e2ee.GetKeyRequest(participant_identity=identity, key_index=index)).get_key
        return answer.key if answer.HasField("key") else None

    def ratchet_key(self, identity: str, *, index: int = 0) -> bytes:
        """As :meth:`ratchet_shared_key`, of a participant's own key."""
        self._check_index(index)
        request = e2ee.RatchetKeyRequest(participant_identity=identity, key_index=index)
        return self._ratcheted(self._ask(ratchet_key=request).ratchet_key.new_key, index)

    # --- track by track -------------------------------------------------------------------------------------------

    def cryptors(self) -> tuple[FrameCryptor, ...]:
        """What encrypts our tracks and decrypts those that we are subscribed to."""
        request = e2ee.E2eeManagerGetFrameCryptorsRequest()
        answer = self._ask(manager_get_frame_cryptors=request).manager_get_frame_cryptors
        return tuple(
            FrameCryptor(
                identity=cryptor.participant_identity,
                track_sid=cryptor.track_sid,
                key_index=cryptor.key_index,
                enabled=cryptor.enabled,
            )
            for cryptor in answer.frame_cryptors
        )

    def set_track_enabled(self, identity: str, track_sid: str, enabled: bool) -> None:
        """Encrypt or decrypt one track, or no longer."""
        self._check_cryptor(identity, track_sid)
        request = e2ee.FrameCryptorSetEnabledRequest(
            participant_identity=identity, track_sid=track_sid, enabled=enabled
        )
        self._ask(cryptor_set_enabled=request)

    def set_key_index(self, identity: str, track_sid: str, index: int) -> None:
        """Go over to the key at ``index`` for one track of ours.  Receivers follow by themselves."""
        self._check_index(index)
        self._check_cryptor(identity, track_sid)
        request = e2ee.FrameCryptorSetKeyIndexRequest(
            participant_identity=identity, track_sid=track_sid, key_index=index
        )
        self._ask(cryptor_set_key_index=request)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _ask(self, **request: Any) -> e2ee.E2eeResponse:
        self._link.check_open()
        self._check_available()
        message = e2ee.E2eeRequest(room_handle=self._link.room_handle, **request)
        return self._link.request(ffi.FfiRequest(e2ee=message)).e2ee

    def _check_available(self) -> Encryption:
        if self._options is None:
            raise RoomError(
                "the room was joined without encryption",
                code="ROOM_NOT_ENCRYPTED",
                hint="join with ConnectOptions(encryption=Encryption(...))",
            )
        return self._options

    def _check_shared(self) -> None:
        if self._check_available().shared_key is None:
            # The library would take it and not use it.
            raise RoomError(
                "this room has no shared key: participants have keys of their own",
                code="ROOM_NOT_ENCRYPTED",
                hint="join with Encryption(shared_key=...), or use set_key",
            )

    def _check_index(self, index: int) -> None:
        # The library takes any number for the index that is in use.
        if not 0 <= index < self._check_available().key_ring_size:
            raise ValueError(f"the key ring has no place {index}")

    def _check_key(self, key: bytes, index: int) -> None:
        self._check_index(index)
        if not key:
            raise ValueError("an empty key does not encrypt")

    def _check_cryptor(self, identity: str, track_sid: str) -> None:
        if not any((c.identity, c.track_sid) == (identity, track_sid) for c in self.cryptors()):
            # The library would say nothing.
            raise RoomError(
                f"no track {track_sid} of {identity!r} is encrypted here", hint="publish or subscribe to it first"
            )

    def _ratcheted(self, key: bytes, index: int) -> bytes:
        if not key:
            raise RoomError(f"there is no key at index {index} to ratchet")
        return key


def state_of(number: int) -> EncryptionState | int:
    """The library's number as a state."""
    return known(EncryptionState, number)
