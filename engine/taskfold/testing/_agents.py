"""The simulated surroundings of the engine: places of allocations, the nodes that they are on, and their processes."""

from __future__ import annotations

from random import Random
from typing import Any

from taskfold.model.inputs import Exited
from taskfold.testing._plan import Behaviour, PlannedJob

__all__ = ["SimulatedAllocation", "SimulatedNode", "SimulatedPlace", "SimulatedProcess", "SimulatedTask"]


class SimulatedPlace:
    """A place of an allocation in its job: one allocation at a time has it, and the next one when that has ended.

    What happens by chance to its allocations is drawn from a generator of its own.
    """

    __slots__ = ("allocation", "chance", "generation", "job", "node", "number", "rng")

    def __init__(self, seed: int, number: int, job: PlannedJob, node: SimulatedNode) -> None:
        self.number = number
        self.job = job
        self.node = node
        """The node that its next allocation is placed on."""
        self.rng = Random(f"{seed}/{number}")
        self.chance = self.rng.random
        self.generation = 0
        self.allocation: SimulatedAllocation | None = None


class SimulatedNode:
    """A node, with its agent, as the network between it and the scheduler shows it."""

    __slots__ = ("allocations", "epoch", "is_lost", "number", "outages", "partitions", "reports")

    def __init__(self, number: int) -> None:
        self.number = number
        self.allocations: dict[str, SimulatedAllocation] = {}
        """Those that have not ended."""
        self.epoch = 0
        """How often its agent began: what an earlier one had not got through is lost."""
        self.outages = 0
        """Why its agent is down: so many reasons."""
        self.partitions = 0
        """Why the scheduler cannot reach it: so many reasons."""
        self.is_lost = False
        """The scheduler takes it for down, and has said so of its allocations."""
        self.reports: list[Any] = []
        """Reports that its agent could not send yet."""


class SimulatedProcess:
    """A process of a task, from the order to start it."""

    __slots__ = (
        "end",
        "failure",
        "is_alive",
        "is_dying",
        "is_end_delivered",
        "is_start_delivered",
        "is_starting",
        "kills_failed",
        "name",
        "was_alive",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        """The prefix of the IDs of reports on it."""
        self.is_starting = True
        self.is_alive = False
        self.was_alive = False
        self.is_dying = False
        """It was told to end."""
        self.kills_failed = 0
        self.failure: Any = None
        """The report of a start that fails."""
        self.end: Exited | None = None
        self.is_start_delivered = False
        self.is_end_delivered = False


class SimulatedTask:
    """A task as its agent knows it."""

    __slots__ = ("allocation", "behaviour", "name", "ordered_ns", "prefix", "process", "processes")

    def __init__(self, allocation: SimulatedAllocation, behaviour: Behaviour) -> None:
        self.allocation = allocation
        self.behaviour = behaviour
        self.name = behaviour.name
        self.prefix = f"{allocation.id}/{self.name}/"
        self.process: SimulatedProcess | None = None
        """The newest."""
        self.processes = 0
        self.ordered_ns = -1
        """The time of the newest order to start it: an order that comes again is none."""


class SimulatedAllocation:
    """An allocation as its agent knows it."""

    __slots__ = (
        "has_arrived",
        "id",
        "ids",
        "is_collected",
        "is_ended",
        "is_restoring",
        "last_order_ns",
        "node",
        "orders",
        "place",
        "reports",
        "tasks",
    )

    def __init__(self, id: str, place: SimulatedPlace, node: SimulatedNode) -> None:
        self.id = id
        self.place = place
        self.node = node
        self.tasks = {name: SimulatedTask(self, behaviour) for name, behaviour in place.job.tasks.items()}
        self.has_arrived = False
        """Its agent knows of it."""
        self.is_ended = False
        self.is_collected = False
        self.is_restoring = False
        """Its agent was restarted, and waits until the scheduler has heard how it found the allocation."""
        self.last_order_ns = 0
        self.orders: list[Any] = []
        """Orders of the scheduler that it could not send yet."""
        self.ids: list[str] = []
        """The IDs of what was reported of it."""
        self.reports = 0
        """How many reports were made that are of no process."""
