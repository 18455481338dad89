"""The Go API reference, symbol by symbol: each resolves to a real attribute here, or is listed as later with its group.

The left column is the reference's name, the right one where it lives.  ``module:Name.attribute`` is looked up; a
dataclass field counts as an attribute.  What the reference promises and this version does not have yet stands in
``LATER``, so that nothing is forgotten and nothing is there by accident.
"""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from typing import Any

import pytest

import livekit_agent
from livekit_agent import SimpleUniversalHandler, UniversalWorker, WorkerOptions

CORE_TYPES = {
    "UniversalHandler": "livekit_agent:UniversalHandler",
    "UniversalHandler.OnJobRequest": "livekit_agent:UniversalHandler.on_job_request",
    "UniversalHandler.OnJobAssigned": "livekit_agent:UniversalHandler.on_job_assigned",
    "UniversalHandler.OnJobTerminated": "livekit_agent:UniversalHandler.on_job_terminated",
    "UniversalHandler.OnParticipantJoined": "livekit_agent:BaseHandler.on_participant_joined",
    "UniversalHandler.OnParticipantLeft": "livekit_agent:BaseHandler.on_participant_left",
    "UniversalHandler.OnTrackPublished": "livekit_agent:BaseHandler.on_track_published",
    "UniversalHandler.OnTrackUnpublished": "livekit_agent:BaseHandler.on_track_unpublished",
    "JobType_JT_ROOM": "livekit_agent:JobType.ROOM",
    "JobType_JT_PARTICIPANT": "livekit_agent:JobType.PARTICIPANT",
    "JobType_JT_PUBLISHER": "livekit_agent:JobType.PUBLISHER",
    "livekit.Job": "livekit_agent:Job",
    "livekit.JobType": "livekit_agent:JobType",
    "livekit.ParticipantPermission": "livekit_agent:ParticipantPermissions",
    "livekit.ParticipantPermission (message)": "livekit_agent:ParticipantPermissions.to_proto",
    "livekit.ConnectionQuality": "livekit_agent:ConnectionQuality",
    "livekit.ConnectionQuality POOR": "livekit_agent:ConnectionQuality.POOR",
    "livekit.ConnectionQuality GOOD": "livekit_agent:ConnectionQuality.GOOD",
    "livekit.ConnectionQuality EXCELLENT": "livekit_agent:ConnectionQuality.EXCELLENT",
    "livekit.ConnectionQuality LOST": "livekit_agent:ConnectionQuality.LOST",
    "lksdk.Room": "livekit_agent.rooms:Room",
    "lksdk.RemoteParticipant": "livekit_agent.rooms:RemoteParticipant",
    "lksdk.LocalParticipant": "livekit_agent.rooms:LocalParticipant",
    "lksdk.RemoteTrackPublication": "livekit_agent.rooms:RemoteTrackPublication",
    "lksdk.RemoteTrack": "livekit_agent.rooms:RemoteTrack",
    "context.Context (scope)": "livekit_agent:JobContext().cancel_scope",
    "ctx.Done() (polite stage)": "livekit_agent:JobContext.shutting_down",
    "Context deadline reflects job timeout": "livekit_agent:JobContext().deadline",
    "job timeout": "livekit_agent:WorkerOptions.job_timeout",
}

WORKER_API = {
    "UniversalWorker": "livekit_agent:UniversalWorker",
    "NewUniversalWorker": "livekit_agent:UniversalWorker.__init__",
    "UniversalWorker.Start": "livekit_agent:UniversalWorker.start",
    "UniversalWorker.Stop": "livekit_agent:UniversalWorker.stop",
    "UniversalWorker.GetStatus": "livekit_agent:UniversalWorker.status",
    "UniversalWorker.GetWorkerID": "livekit_agent:UniversalWorker.worker_id",
    "(from the environment)": "livekit_agent:UniversalWorker.from_config",
    "(from synchronous code)": "livekit_agent:run",
    "(report of a stop)": "livekit_agent:ShutdownReport",
    "WorkerStatus available": "livekit_agent:WorkerStatus.AVAILABLE",
    "WorkerStatus busy": "livekit_agent:WorkerStatus.BUSY",
    "WorkerStatus full": "livekit_agent:WorkerStatus.FULL",
    "WorkerStatus draining": "livekit_agent:WorkerStatus.DRAINING",
    "WorkerStatus disconnected": "livekit_agent:WorkerStatus.DISCONNECTED",
    "WorkerStatus closed": "livekit_agent:WorkerStatus.CLOSED",
    "WorkerOptions": "livekit_agent:WorkerOptions",
    "WorkerOptions.AgentName": "livekit_agent:WorkerOptions.agent_name",
    "WorkerOptions.JobType": "livekit_agent:WorkerOptions.job_type",
    "WorkerOptions.MaxJobs": "livekit_agent:WorkerOptions.max_jobs",
    "WorkerOptions.Namespace": "livekit_agent:WorkerOptions.namespace",
    "WorkerOptions.Permissions": "livekit_agent:WorkerOptions.permissions",
    "WorkerOptions.LoadCalculator": "livekit_agent:WorkerOptions.load_calculator",
    "WorkerOptions.ShutdownTimeout": "livekit_agent:WorkerOptions.shutdown_timeout",
    "WorkerOptions.WebSocketDebug": "livekit_agent:WorkerOptions.websocket_debug",
    "WorkerOptions.Logger": "livekit_agent:WorkerOptions.logger",
}

JOB_HANDLING = {
    "Job.Id": "livekit_agent:Job.id",
    "Job.Type": "livekit_agent:Job.type",
    "Job.Room": "livekit_agent:Job.room",
    "RoomInfo": "livekit_agent:RoomInfo",
    "RoomInfo.sid": "livekit_agent:RoomInfo.sid",
    "RoomInfo.name": "livekit_agent:RoomInfo.name",
    "RoomInfo.metadata": "livekit_agent:RoomInfo.metadata",
    "RoomInfo.num_participants": "livekit_agent:RoomInfo.num_participants",
    "RoomInfo.creation_time": "livekit_agent:RoomInfo.creation_time",
    "Job.Participant": "livekit_agent:Job.participant",
    "ParticipantInfo": "livekit_agent:ParticipantInfo",
    "ParticipantInfo.sid": "livekit_agent:ParticipantInfo.sid",
    "ParticipantInfo.identity": "livekit_agent:ParticipantInfo.identity",
    "ParticipantInfo.name": "livekit_agent:ParticipantInfo.name",
    "ParticipantInfo.metadata": "livekit_agent:ParticipantInfo.metadata",
    "ParticipantInfo.attributes": "livekit_agent:ParticipantInfo.attributes",
    "Job.Namespace": "livekit_agent:Job.namespace",
    "Job.Metadata": "livekit_agent:Job.metadata",
    "Job.Metadata (JSON)": "livekit_agent:Job.metadata_json",
    "Job.Metadata (typed)": "livekit_agent:Job.metadata_as",
    "Job.CreatedAt": "livekit_agent:Job.created_at",
    "Job.UpdatedAt": "livekit_agent:Job.updated_at",
    "(protocol) dispatch_id": "livekit_agent:Job.dispatch_id",
    "(protocol) agent_name": "livekit_agent:Job.agent_name",
    "(protocol) attributes": "livekit_agent:Job.attributes",
    "(protocol) state": "livekit_agent:Job.state",
    "(protocol) enable_recording": "livekit_agent:Job.enable_recording",
    "(protocol) raw": "livekit_agent:Job.raw",
    "JobMetadata": "livekit_agent:JobMetadata",
    "JobMetadata.ParticipantIdentity": "livekit_agent:JobMetadata.participant_identity",
    "JobMetadata.ParticipantName": "livekit_agent:JobMetadata.participant_name",
    "JobMetadata.ParticipantMetadata": "livekit_agent:JobMetadata.participant_metadata",
    "(attributes)": "livekit_agent:JobMetadata.participant_attributes",
    "(declining with a reason)": "livekit_agent:Reject.reason",
    "(ending for every worker)": "livekit_agent:Reject.terminate",
    "JobContext": "livekit_agent:JobContext",
    "JobContext.Job": "livekit_agent:JobContext().job",
    "JobContext.Room": "livekit_agent:JobContext().room",
    "JobContext.Metadata": "livekit_agent:JobContext().metadata",
    "Room.Name()": "livekit_agent.rooms:Room.name",
    "Room.SID()": "livekit_agent.rooms:Room.sid",
    "Room.GetRemoteParticipants()": "livekit_agent.rooms:Room.remote_participants",
    "Room.LocalParticipant()": "livekit_agent.rooms:Room.local_participant",
    "(callbacks at any time)": "livekit_agent:JobContext.events",
    "(waiting for one)": "livekit_agent:JobContext.wait_for",
    "(child tasks)": "livekit_agent:JobContext().task_group",
    "(ending it)": "livekit_agent:JobContext.shutdown",
    "(cleaning up)": "livekit_agent:JobContext.push_cleanup",
}

AGENT_TYPES = {
    "SimpleUniversalHandler": "livekit_agent:SimpleUniversalHandler",
    "SimpleUniversalHandler.JobRequestFunc": "livekit_agent:SimpleUniversalHandler(job_request)",
    "SimpleUniversalHandler.JobAssignedFunc": "livekit_agent:SimpleUniversalHandler(job_assigned)",
    "SimpleUniversalHandler.JobTerminatedFunc": "livekit_agent:SimpleUniversalHandler(job_terminated)",
    "SimpleUniversalHandler.ParticipantJoinedFunc": "livekit_agent:SimpleUniversalHandler(participant_joined)",
    "SimpleUniversalHandler.ParticipantLeftFunc": "livekit_agent:SimpleUniversalHandler(participant_left)",
    "SimpleUniversalHandler.TrackPublishedFunc": "livekit_agent:SimpleUniversalHandler(track_published)",
    "SimpleUniversalHandler.TrackUnpublishedFunc": "livekit_agent:SimpleUniversalHandler(track_unpublished)",
    "SimpleUniversalHandler.TrackSubscribedFunc": "livekit_agent:SimpleUniversalHandler(track_subscribed)",
    "SimpleUniversalHandler.TrackUnsubscribedFunc": "livekit_agent:SimpleUniversalHandler(track_unsubscribed)",
    "SimpleUniversalHandler.DataReceivedFunc": "livekit_agent:SimpleUniversalHandler(data_received)",
    "SimpleUniversalHandler.SpeakingChangedFunc": "livekit_agent:SimpleUniversalHandler(speaking_changed)",
    "SimpleUniversalHandler.ConnectionQualityChangedFunc": (
        "livekit_agent:SimpleUniversalHandler(connection_quality_changed)"
    ),
    "@handler.job_request": "livekit_agent:SimpleUniversalHandler.job_request",
    "@handler.job_assigned": "livekit_agent:SimpleUniversalHandler.job_assigned",
    "@handler.job_terminated": "livekit_agent:SimpleUniversalHandler.job_terminated",
    "@handler.on": "livekit_agent:SimpleUniversalHandler.on",
    "events.ParticipantJoined": "livekit_agent.events:ParticipantJoined.existing",
    "events.ParticipantLeft": "livekit_agent.events:ParticipantLeft.reason",
    "events.TrackPublished": "livekit_agent.events:TrackPublished.publication",
    "events.TrackUnpublished": "livekit_agent.events:TrackUnpublished.publication",
    "events.TrackSubscribed": "livekit_agent.events:TrackSubscribed.track",
    "events.TrackUnsubscribed": "livekit_agent.events:TrackUnsubscribed.track",
    "events.DataReceived": "livekit_agent.events:DataReceived.topic",
    "events.SpeakingChanged": "livekit_agent.events:SpeakingChanged.speaking",
    "events.ConnectionQualityChanged": "livekit_agent.events:ConnectionQualityChanged.quality",
    "BaseHandler": "livekit_agent:BaseHandler",
    "BaseHandler (12 methods)": "livekit_agent:BaseHandler.on_connection_quality_changed",
}

LOAD = {
    "LoadCalculator": "livekit_agent:LoadCalculator",
    "LoadCalculator.CalculateLoad": "livekit_agent:LoadCalculator.calculate_load",
    "LoadCalculator.ShouldAcceptJob": "livekit_agent:LoadCalculator.should_accept_job",
    "DefaultLoadCalculator": "livekit_agent:DefaultLoadCalculator",
    "NewDefaultLoadCalculator": "livekit_agent:DefaultLoadCalculator.__init__",
    "DefaultLoadCalculator.CPUWeight": "livekit_agent:DefaultLoadCalculator.cpu_weight",
    "DefaultLoadCalculator.MemoryWeight": "livekit_agent:DefaultLoadCalculator.memory_weight",
    "DefaultLoadCalculator.JobWeight": "livekit_agent:DefaultLoadCalculator.job_weight",
    "CustomLoadCalculator": "livekit_agent:CustomLoadCalculator",
    "CustomLoadCalculator.Calculator": "livekit_agent:CustomLoadCalculator(calculator)",
    "CustomLoadCalculator.Acceptor": "livekit_agent:CustomLoadCalculator(acceptor)",
    "WorkerStats": "livekit_agent:WorkerStats",
    "WorkerStats.Connected": "livekit_agent:WorkerStats.connected",
    "WorkerStats.ActiveJobs": "livekit_agent:WorkerStats.active_jobs",
    "WorkerStats.CompletedJobs": "livekit_agent:WorkerStats.completed_jobs",
    "WorkerStats.FailedJobs": "livekit_agent:WorkerStats.failed_jobs",
    "WorkerStats.TotalJobs": "livekit_agent:WorkerStats.total_jobs",
    "WorkerStats.CPUPercent": "livekit_agent:WorkerStats.cpu_percent",
    "WorkerStats.MemoryMB": "livekit_agent:WorkerStats.memory_mb",
    "WorkerStats.CurrentLoad": "livekit_agent:WorkerStats.current_load",
    "WorkerStats.Uptime": "livekit_agent:WorkerStats.uptime",
}

CONFIGURATION = {
    "LIVEKIT_URL": "livekit_agent:Config.url",
    "LIVEKIT_API_KEY": "livekit_agent:Config.api_key",
    "LIVEKIT_API_SECRET": "livekit_agent:Config.api_secret",
    "LIVEKIT_AGENT_NAME": "livekit_agent:Config.agent_name",
    "LIVEKIT_NAMESPACE": "livekit_agent:Config.namespace",
    "LIVEKIT_MAX_CONCURRENT_JOBS": "livekit_agent:Config.max_jobs",
    "LIVEKIT_LOG_LEVEL": "livekit_agent:Config.log_level",
    "LIVEKIT_RECOVERY_ENABLED": "livekit_agent:Config.recovery_enabled",
    "LIVEKIT_WEBSOCKET_DEBUG": "livekit_agent:Config.websocket_debug",
    "Config": "livekit_agent:Config",
    "Config (to options)": "livekit_agent:Config.options",
    "Config (provenance)": "livekit_agent:Config.provenance",
    "LoadConfigFromEnv": "livekit_agent:load_config_from_env",
    "LoadConfigFromEnv (method)": "livekit_agent:Config.from_env",
    "ValidateConfig": "livekit_agent:validate_config",
    "ValidateConfig (method)": "livekit_agent:Config.validate",
    "GetEnvWithDefault": "livekit_agent:get_env",
    "GetEnvAsInt": "livekit_agent:get_env_int",
    "GetEnvAsDuration": "livekit_agent:get_env_duration",
    "GetEnvAsBool": "livekit_agent:get_env_bool",
    "time.Duration": "livekit_agent:parse_duration",
}

ERRORS = {
    "ErrWorkerNotConnected": "livekit_agent:WorkerNotConnectedError",
    "ErrJobTimeout": "livekit_agent:JobTimeoutError",
    "ErrResourceExhausted": "livekit_agent:ResourceExhaustedError",
    "ErrInvalidJobType": "livekit_agent:InvalidJobTypeError",
    "ErrConnectionLost": "livekit_agent:ConnectionLostError",
    "ErrRecoveryFailed": "livekit_agent:RecoveryFailedError",
    "ErrShutdownTimeout": "livekit_agent:ShutdownTimeoutError",
    "(version)": "livekit_agent:__version__",
    "(protocol version)": "livekit_agent:PROTOCOL_VERSION",
}

GROUPS = {
    "Core types": CORE_TYPES,
    "Worker API": WORKER_API,
    "Job handling": JOB_HANDLING,
    "Agent types": AGENT_TYPES,
    "Load": LOAD,
    "Configuration": CONFIGURATION,
    "Errors": ERRORS,
}

#: Promised by the reference and not here yet, by group.  Moving one up means writing its row above.
LATER = {
    "Worker API": ["resource_limiter", "enable_job_recovery", "recovery_handler", "health_check_interval"],
    "Media": [
        "MediaPipeline", "TrackInput", "TrackOutput", "MediaProcessor", "PipelineConfig", "QualityController",
        "QualityLevel", "QualityOptions",
    ],
    "Recovery": ["RecoveryHandler", "RecoveryAction", "DefaultRecoveryHandler"],
    "Monitoring": [
        "WorkerStats.connection_quality", "WorkerStats.last_heartbeat", "WorkerStats.network_bytes_in",
        "WorkerStats.network_bytes_out", "WorkerStats.load_history", "WorkerStats.start_time",
        "WorkerStats.last_job_time", "HealthMonitor", "HealthOptions", "ResourceMonitor", "ResourceMonitorOptions",
        "ResourceStatus", "ResourceHealthLevel",
    ],
    "Participant coordination": [
        "MultiParticipantCoordinator", "ParticipantGroup", "CoordinatedParticipant", "ActivityMetrics",
        "CoordinationRule", "ActivityType", "ParticipantEventProcessor", "ParticipantEvent", "BatchEventProcessor",
        "EventType",
    ],
    "Resources": ["ResourcePool", "ResourceFactory", "ResourcePoolOptions", "PooledResource"],
    "Configuration": ["ResourceLimits", "ResourceLimiter", "DefaultResourceLimiter", "ResourceUsage"],
}  # fmt: skip

ROWS = [(group, symbol, home) for group, rows in GROUPS.items() for symbol, home in rows.items()]


def resolve(home: str) -> None:
    """Look it up: ``m:N``, ``m:N.a`` (attribute or field), ``m:N(p)`` (constructor argument), ``m:N().a`` (set)."""
    module, _, path = home.partition(":")
    target: Any = import_module(module)
    name, argument, rest = path, "", ""
    if "()." in path:
        name, _, rest = path.partition("().")
    elif path.endswith(")"):
        name, _, argument = path.removesuffix(")").partition("(")
    else:
        name, _, rest = path.partition(".")
    target = getattr(target, name)
    if argument:
        assert argument in inspect.signature(target).parameters
    elif "()." in path:
        assert f"self.{rest} = " in inspect.getsource(target)
    elif rest:
        assert rest in fields_of(target) or hasattr(target, rest)


def fields_of(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


@pytest.mark.parametrize(("group", "symbol", "home"), ROWS, ids=[f"{group}: {symbol}" for group, symbol, _ in ROWS])
def test_the_symbol_has_a_home(group: str, symbol: str, home: str) -> None:
    resolve(home)


LATER_ROWS = [(group, name) for group, names in LATER.items() for name in names]


@pytest.mark.parametrize(("group", "name"), LATER_ROWS, ids=[f"{group}: {name}" for group, name in LATER_ROWS])
def test_what_is_later_is_not_half_here(group: str, name: str) -> None:
    """An option accepted and ignored would be worse than one that is missing."""
    owner, _, attribute = name.partition(".")
    if group == "Worker API":
        assert name not in {field.name for field in dataclasses.fields(WorkerOptions)}
        with pytest.raises(TypeError):
            WorkerOptions(**{name: None})
    elif attribute:
        assert attribute not in fields_of(getattr(livekit_agent, owner))
    else:
        assert name not in livekit_agent.__all__


def test_the_worker_takes_what_the_reference_says_in_its_order() -> None:
    parameters = list(inspect.signature(UniversalWorker).parameters)
    assert parameters[:5] == ["url", "api_key", "api_secret", "handler", "options"]


def test_the_simple_handler_has_the_twelve_callbacks_and_no_other() -> None:
    callbacks = [row for row in AGENT_TYPES.values() if row.startswith("livekit_agent:SimpleUniversalHandler(")]
    names = sorted(row.partition("(")[2].removesuffix(")") for row in callbacks)
    assert names == sorted(inspect.signature(SimpleUniversalHandler).parameters)
    assert len(names) == 12


def test_the_defaults_of_the_reference() -> None:
    options = WorkerOptions()
    assert (options.max_jobs, options.shutdown_timeout, options.agent_name) == (1, 30.0, "")
