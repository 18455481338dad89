"""Rooms: what an agent sees and does inside a LiveKit room, on trio or asyncio.

One :class:`Room` over a narrow seam (``_transport``): below it the native LiveKit library (:class:`NativeRooms`) or
rooms in this process's memory (:class:`MemoryRooms`).  The code of the room is the same over both, so what tests
run is what production runs.

Lazy: neither the native library nor its message classes are loaded before a name is used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._audio import AudioFilter as AudioFilter
    from ._audio import AudioSource as AudioSource
    from ._audio import AudioStage as AudioStage
    from ._connect_options import ConnectOptions as ConnectOptions
    from ._connect_options import IceServer as IceServer
    from ._connect_options import IceTransport as IceTransport
    from ._connect_options import Scenario as Scenario
    from ._connectors import NativeRooms as NativeRooms
    from ._connectors import RoomConnector as RoomConnector
    from ._data_receivers import RemoteDataTrack as RemoteDataTrack
    from ._data_senders import LocalDataTrack as LocalDataTrack
    from ._data_tracks import DataFrame as DataFrame
    from ._data_tracks import DataSchema as DataSchema
    from ._data_tracks import Overflow as Overflow
    from ._encoded import EncodedVideoFeedback as EncodedVideoFeedback
    from ._encoded import EncodedVideoFrame as EncodedVideoFrame
    from ._encoded import EncodedVideoSource as EncodedVideoSource
    from ._encryption import Encryption as Encryption
    from ._encryption import EncryptionState as EncryptionState
    from ._encryption import EncryptionType as EncryptionType
    from ._encryption import FrameCryptor as FrameCryptor
    from ._encryption import KeyDerivation as KeyDerivation
    from ._encryption import RoomEncryption as RoomEncryption
    from ._enums import AudioFeature as AudioFeature
    from ._enums import ConnectionState as ConnectionState
    from ._enums import DisconnectReason as DisconnectReason
    from ._enums import FrameMetadataKind as FrameMetadataKind
    from ._enums import ParticipantKind as ParticipantKind
    from ._enums import ParticipantKindDetail as ParticipantKindDetail
    from ._enums import ParticipantState as ParticipantState
    from ._enums import RpcCode as RpcCode
    from ._enums import StreamOperation as StreamOperation
    from ._enums import TrackKind as TrackKind
    from ._enums import TrackSource as TrackSource
    from ._enums import VideoQuality as VideoQuality
    from ._follow import SourceStream as SourceStream
    from ._frames import AudioFrame as AudioFrame
    from ._frames import FrameMetadata as FrameMetadata
    from ._frames import VideoFormat as VideoFormat
    from ._frames import VideoFrame as VideoFrame
    from ._frames import VideoRotation as VideoRotation
    from ._ledger import RoomLedger as RoomLedger
    from ._media_stream import MediaStatistics as MediaStatistics
    from ._media_stream import MediaStream as MediaStream
    from ._memory import MemoryRooms as MemoryRooms
    from ._memory_network import Delays as Delays
    from ._memory_network import Network as Network
    from ._messages import ChatMessage as ChatMessage
    from ._messages import TranscriptionSegment as TranscriptionSegment
    from ._mixer import AudioMixer as AudioMixer
    from ._participants import LocalParticipant as LocalParticipant
    from ._participants import Participant as Participant
    from ._participants import RemoteParticipant as RemoteParticipant
    from ._portaudio import AudioDevice as AudioDevice
    from ._preconnect import PreconnectAudio as PreconnectAudio
    from ._preconnect import PreconnectListener as PreconnectListener
    from ._processing import AudioProcessor as AudioProcessor
    from ._processing import Resampler as Resampler
    from ._processing import ResamplerQuality as ResamplerQuality
    from ._processing import load_audio_filter as load_audio_filter
    from ._publish_options import AudioOptions as AudioOptions
    from ._publish_options import DegradationPreference as DegradationPreference
    from ._publish_options import VideoCodec as VideoCodec
    from ._publish_options import VideoEncoder as VideoEncoder
    from ._publish_options import VideoOptions as VideoOptions
    from ._room import Room as Room
    from ._room import RoomStatistics as RoomStatistics
    from ._rpc import RpcCall as RpcCall
    from ._rpc import RpcHandler as RpcHandler
    from ._rpc import RpcRegistration as RpcRegistration
    from ._rpc import RpcServer as RpcServer
    from ._rpc_interceptors import OutgoingCall as OutgoingCall
    from ._rpc_interceptors import RpcInterceptor as RpcInterceptor
    from ._screens import Screen as Screen
    from ._screens import ScreenCapture as ScreenCapture
    from ._screens import open_screen as open_screen
    from ._screens import screens as screens
    from ._scripted import ScriptedParticipant as ScriptedParticipant
    from ._sip import SipCallStatus as SipCallStatus
    from ._sip import SipInfo as SipInfo
    from ._sound_devices import Speaker as Speaker
    from ._sound_devices import microphones as microphones
    from ._sound_devices import open_microphone as open_microphone
    from ._sound_devices import open_speaker as open_speaker
    from ._sound_devices import speakers as speakers
    from ._statistics import ChannelStatistics as ChannelStatistics
    from ._statistics import ConnectionStatistics as ConnectionStatistics
    from ._statistics import InboundStatistics as InboundStatistics
    from ._statistics import OtherStatistics as OtherStatistics
    from ._statistics import OutboundStatistics as OutboundStatistics
    from ._statistics import PathStatistics as PathStatistics
    from ._stream_inbox import StreamListener as StreamListener
    from ._stream_writers import ByteStreamWriter as ByteStreamWriter
    from ._stream_writers import TextStreamWriter as TextStreamWriter
    from ._streams import ByteStreamInfo as ByteStreamInfo
    from ._streams import ByteStreamReader as ByteStreamReader
    from ._streams import TextStreamInfo as TextStreamInfo
    from ._streams import TextStreamReader as TextStreamReader
    from ._subscription import Subscription as Subscription
    from ._synchronizer import AvSynchronizer as AvSynchronizer
    from ._tracks import LocalTrack as LocalTrack
    from ._tracks import LocalTrackPublication as LocalTrackPublication
    from ._tracks import RemoteTrack as RemoteTrack
    from ._tracks import RemoteTrackPublication as RemoteTrackPublication
    from ._video import VideoSource as VideoSource

# public name -> the module that holds it
_HOMES = {
    "AudioDevice": "_portaudio",
    "AudioFeature": "_enums",
    "AudioFilter": "_audio",
    "AudioFrame": "_frames",
    "AudioMixer": "_mixer",
    "AudioOptions": "_publish_options",
    "AudioProcessor": "_processing",
    "AudioSource": "_audio",
    "AudioStage": "_audio",
    "AvSynchronizer": "_synchronizer",
    "ByteStreamInfo": "_streams",
    "ByteStreamReader": "_streams",
    "ByteStreamWriter": "_stream_writers",
    "ChannelStatistics": "_statistics",
    "ChatMessage": "_messages",
    "ConnectOptions": "_connect_options",
    "ConnectionState": "_enums",
    "ConnectionStatistics": "_statistics",
    "DataFrame": "_data_tracks",
    "DataSchema": "_data_tracks",
    "DegradationPreference": "_publish_options",
    "Delays": "_memory_network",
    "DisconnectReason": "_enums",
    "EncodedVideoFeedback": "_encoded",
    "EncodedVideoFrame": "_encoded",
    "EncodedVideoSource": "_encoded",
    "Encryption": "_encryption",
    "EncryptionState": "_encryption",
    "EncryptionType": "_encryption",
    "FrameCryptor": "_encryption",
    "FrameMetadata": "_frames",
    "FrameMetadataKind": "_enums",
    "IceServer": "_connect_options",
    "IceTransport": "_connect_options",
    "InboundStatistics": "_statistics",
    "KeyDerivation": "_encryption",
    "LocalDataTrack": "_data_senders",
    "LocalParticipant": "_participants",
    "LocalTrack": "_tracks",
    "LocalTrackPublication": "_tracks",
    "MediaStatistics": "_media_stream",
    "MediaStream": "_media_stream",
    "MemoryRooms": "_memory",
    "NativeRooms": "_connectors",
    "Network": "_memory_network",
    "OtherStatistics": "_statistics",
    "OutboundStatistics": "_statistics",
    "OutgoingCall": "_rpc_interceptors",
    "Overflow": "_data_tracks",
    "Participant": "_participants",
    "ParticipantKind": "_enums",
    "ParticipantKindDetail": "_enums",
    "ParticipantState": "_enums",
    "PathStatistics": "_statistics",
    "PreconnectAudio": "_preconnect",
    "PreconnectListener": "_preconnect",
    "RemoteDataTrack": "_data_receivers",
    "RemoteParticipant": "_participants",
    "RemoteTrack": "_tracks",
    "RemoteTrackPublication": "_tracks",
    "Resampler": "_processing",
    "ResamplerQuality": "_processing",
    "Room": "_room",
    "RoomConnector": "_connectors",
    "RoomEncryption": "_encryption",
    "RoomLedger": "_ledger",
    "RoomStatistics": "_room",
    "RpcCall": "_rpc",
    "RpcCode": "_enums",
    "RpcHandler": "_rpc",
    "RpcInterceptor": "_rpc_interceptors",
    "RpcRegistration": "_rpc",
    "RpcServer": "_rpc",
    "Scenario": "_connect_options",
    "Screen": "_screens",
    "ScreenCapture": "_screens",
    "ScriptedParticipant": "_scripted",
    "SipCallStatus": "_sip",
    "SipInfo": "_sip",
    "SourceStream": "_follow",
    "Speaker": "_sound_devices",
    "StreamListener": "_stream_inbox",
    "StreamOperation": "_enums",
    "Subscription": "_subscription",
    "TextStreamInfo": "_streams",
    "TextStreamReader": "_streams",
    "TextStreamWriter": "_stream_writers",
    "TrackKind": "_enums",
    "TrackSource": "_enums",
    "TranscriptionSegment": "_messages",
    "VideoCodec": "_publish_options",
    "VideoEncoder": "_publish_options",
    "VideoFormat": "_frames",
    "VideoFrame": "_frames",
    "VideoOptions": "_publish_options",
    "VideoQuality": "_enums",
    "VideoRotation": "_frames",
    "VideoSource": "_video",
    "load_audio_filter": "_processing",
    "microphones": "_sound_devices",
    "open_microphone": "_sound_devices",
    "open_screen": "_screens",
    "open_speaker": "_sound_devices",
    "screens": "_screens",
    "speakers": "_sound_devices",
}

__all__ = [
    "AudioDevice",
    "AudioFeature",
    "AudioFilter",
    "AudioFrame",
    "AudioMixer",
    "AudioOptions",
    "AudioProcessor",
    "AudioSource",
    "AudioStage",
    "AvSynchronizer",
    "ByteStreamInfo",
    "ByteStreamReader",
    "ByteStreamWriter",
    "ChannelStatistics",
    "ChatMessage",
    "ConnectOptions",
    "ConnectionState",
    "ConnectionStatistics",
    "DataFrame",
    "DataSchema",
    "DegradationPreference",
    "Delays",
    "DisconnectReason",
    "EncodedVideoFeedback",
    "EncodedVideoFrame",
    "EncodedVideoSource",
    "Encryption",
    "EncryptionState",
    "EncryptionType",
    "FrameCryptor",
    "FrameMetadata",
    "FrameMetadataKind",
    "IceServer",
    "IceTransport",
    "InboundStatistics",
    "KeyDerivation",
    "LocalDataTrack",
    "LocalParticipant",
    "LocalTrack",
    "LocalTrackPublication",
    "MediaStatistics",
    "MediaStream",
    "MemoryRooms",
    "NativeRooms",
    "Network",
    "OtherStatistics",
    "OutboundStatistics",
    "OutgoingCall",
    "Overflow",
    "Participant",
    "ParticipantKind",
    "ParticipantKindDetail",
    "ParticipantState",
    "PathStatistics",
    "PreconnectAudio",
    "PreconnectListener",
    "RemoteDataTrack",
    "RemoteParticipant",
    "RemoteTrack",
    "RemoteTrackPublication",
    "Resampler",
    "ResamplerQuality",
    "Room",
    "RoomConnector",
    "RoomEncryption",
    "RoomLedger",
    "RoomStatistics",
    "RpcCall",
    "RpcCode",
    "RpcHandler",
    "RpcInterceptor",
    "RpcRegistration",
    "RpcServer",
    "Scenario",
    "Screen",
    "ScreenCapture",
    "ScriptedParticipant",
    "SipCallStatus",
    "SipInfo",
    "SourceStream",
    "Speaker",
    "StreamListener",
    "StreamOperation",
    "Subscription",
    "TextStreamInfo",
    "TextStreamReader",
    "TextStreamWriter",
    "TrackKind",
    "TrackSource",
    "TranscriptionSegment",
    "VideoCodec",
    "VideoEncoder",
    "VideoFormat",
    "VideoFrame",
    "VideoOptions",
    "VideoQuality",
    "VideoRotation",
    "VideoSource",
    "load_audio_filter",
    "microphones",
    "open_microphone",
    "open_screen",
    "open_speaker",
    "screens",
    "speakers",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
