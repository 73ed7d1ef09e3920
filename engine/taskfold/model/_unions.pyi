# Made by `make schemas` from the registries of events.py and inputs.py.
from typing import TypeAlias

from taskfold.model import events, inputs

AnyTaskEvent: TypeAlias = (
    events.Received
    | events.Started
    | events.Terminated
    | events.Restarting
    | events.NotRestarting
    | events.Killing
    | events.Killed
    | events.SetupFailure
    | events.DriverFailure
    | events.FailedValidation
    | events.DownloadingArtifacts
    | events.FailedArtifactDownload
    | events.RestartSignaled
    | events.Signaling
    | events.SiblingTaskFailed
    | events.TaskSetup
    | events.LeaderTaskDead
    | events.Driver
    | events.DiskResourcesExceeded
    | events.BuildingTaskDirectory
    | events.Generic
    | events.Template
    | events.AllocUnhealthy
    | events.TaskHookFailed
    | events.FailedRestoringTask
    | events.PluginBecameHealthy
    | events.PluginBecameUnhealthy
    | events.MainTasksDead
    | events.Reconnected
    | events.TaskHookMessage
    | events.WaitingForShutdownDelay
    | events.SkippingShutdownDelay
    | events.Pausing
    | events.Running
    | events.UnknownEvent
)
AnyInput: TypeAlias = (
    inputs.PlacementReceived
    | inputs.SetUp
    | inputs.DownloadBegun
    | inputs.DownloadFailed
    | inputs.HookFailed
    | inputs.ValidationFailed
    | inputs.SetupFailed
    | inputs.ProcessStarted
    | inputs.StartFailed
    | inputs.Exited
    | inputs.DriverMessage
    | inputs.StopRequested
    | inputs.KillRequested
    | inputs.KillFailed
    | inputs.RestartRequested
    | inputs.SignalRequested
    | inputs.TemplateChanged
    | inputs.TemplateBlocked
    | inputs.HealthFailed
    | inputs.Restored
    | inputs.ServerContacted
    | inputs.NodeDisconnected
    | inputs.NodeLost
    | inputs.NodeReconnected
    | inputs.TimerDue
)
