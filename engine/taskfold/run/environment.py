"""The environment of a task: the variables that Nomad gives it, and the references to them in its settings.

Source: client/driver/env/env.go of v0.5.0 and v0.5.6, client/taskenv/env.go of v1.1.2.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from taskfold.model.dialect import Dialect
from taskfold.nomad.fields import DEFAULT_NAMESPACE
from taskfold.nomad.views.job import Job, TaskGroup, TaskView
from taskfold.nomad.views.resources import NetworkResource, Port
from taskfold.run.task_directory import TaskDirectory

__all__ = ["Environment", "Placement", "environment_of"]

_OURS: Final = "TASKFOLD_"
"""The prefix of taskfold's own variables, which no task gets; a token is among them."""
_NOMADS: Final = "NOMAD_"
_DEFAULT_DATACENTER: Final = "dc1"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "i386": "386", "armv7l": "arm"}
"""The names of architectures in Go."""
_CLEANED: Final = tuple(f"{_NOMADS}{kind}_" for kind in ("ADDR", "IP", "PORT", "HOST_PORT", "META"))
"""The variables whose names the new client cleans; the old one cleans all."""
_REFERENCE: Final = re.compile(r"\$\{([a-zA-Z0-9_\-.]+)\}")
_TEMPLATE: Final = re.compile(
    r"""(?P<escaped>\$\$\{|%%\{)
    |\$\{\s*(?:env\["(?P<variable>[^"]*)"\]|(?P<name>[^\W\d][\w-]*(?:\.[\w-]+)*))\s*\}
    |(?P<other>[$%]\{.*?(?:\}|$))""",
    re.VERBOSE | re.DOTALL,
)
"""The parts of an HCL template: an escape, a reference, or anything more."""
_OF_NODES: Final = ("node.", "attr.", "meta.")
_NO_VARIABLE: Final = (
    '2 errors occurred:\n\t* failed to parse config: \n\t* Unknown variable: There is no variable named "{}".\n\n'
)
"""In the words of Nomad 1.1.2."""


class Placement(NamedTuple):
    """The placement of a task."""

    dialect: Dialect
    region: str
    job: Job
    group: TaskGroup
    name: str
    """The name of the allocation: ``job.group[0]``."""


class Environment(NamedTuple):
    """The variables of a task, and the facts of the node that its settings may refer to."""

    variables: Mapping[str, str]
    node: Mapping[str, str]
    """The attributes of the node."""
    has_templates: bool
    """The settings of drivers are templates of HCL (since Nomad 0.9.0)."""
    unknown: frozenset[str]
    """The variables that Nomad would give the task, and that have no value here."""

    def fill(self, text: str) -> str:
        """Return a text of the driver's settings with its references replaced.

        Raises ValueError for a template with a reference that has no value here, or with more than references.
        """
        return _TEMPLATE.sub(self._part, text) if self.has_templates else _filled(text, self.variables, self.node)

    def _part(self, match: re.Match[str]) -> str:
        if match["escaped"]:
            return match["escaped"][1:]
        if match["other"]:
            problem = f"{match['other']} is more than a reference to a variable: write $${{ for what is the shell's"
            raise ValueError(problem.replace("$${", "%%{") if match["other"][0] == "%" else problem)
        name = match["name"] or match["variable"]
        own = name.removeprefix("node.") if name.startswith(("node.attr.", "node.meta.")) else name
        value = None if match["variable"] else self.node.get(own)
        value = self.variables.get(name.removeprefix("env.")) if value is None else value
        if value is not None:
            return value
        if name in self.unknown or own.startswith(_OF_NODES):
            raise ValueError(f"${{{name}}} cannot be known here")
        raise ValueError(_NO_VARIABLE.format(name))

    def unfilled(self, *texts: str) -> frozenset[str]:
        """Return the references in texts that have no value here, though Nomad would have one."""
        names = {name for text in texts for name in _REFERENCE.findall(text)} - self.variables.keys() - self.node.keys()
        return frozenset(f"${{{name}}}" for name in names if name.startswith((_NOMADS, *_OF_NODES)))


def environment_of(placement: Placement, task: TaskView, directory: TaskDirectory) -> Environment:
    """Return the environment of a task: this process's without secrets, the variables of Nomad, and the task's own."""
    dialect, node = placement.dialect, _node(placement)
    of_nomad = {
        f"{_NOMADS}{name}": str(value)
        for name, value in (
            *_directories_and_limits(task, directory, dialect),
            *_names(placement, task, directory),
            *_meta(placement, task),
            *_ports(placement, task),
        )
        if value not in (None, "")
    }
    inherited = {
        name: _filled(value, node, of_nomad)
        for name, value in os.environ.items()
        if not name.startswith(_OURS) and name not in dialect.withheld_variables
    }
    variables = {**inherited, **of_nomad}
    # Only the new client replaces references to inherited variables.
    sources = dict(variables) if dialect.has_new_client else of_nomad
    own = {name: _filled(value, node, sources) for name, value in (task.env or {}).items()}
    variables |= own
    environment = Environment(
        variables={_cleaned(name, dialect): value for name, value in variables.items()},
        node=node,
        has_templates=dialect.has_new_client,
        unknown=frozenset(f"{_NOMADS}{name}" for name in _unknown(placement, task)) - variables.keys(),
    )
    return environment._replace(unknown=environment.unknown | environment.unfilled(*own.values()))


def _directories_and_limits(task: TaskView, directory: TaskDirectory, dialect: Dialect) -> Iterator[tuple[str, object]]:
    yield "ALLOC_DIR", directory.shared
    yield "TASK_DIR", directory.local
    yield "SECRETS_DIR", directory.secrets
    if (resources := task.resources) is not None:
        yield "MEMORY_LIMIT", resources.memory_mb or None
        yield "CPU_LIMIT", None if resources.cores else resources.cpu_mhz or None
        if dialect.has_new_client:
            yield "MEMORY_MAX_LIMIT", resources.memory_max_mb or None


def _names(placement: Placement, task: TaskView, directory: TaskDirectory) -> Iterator[tuple[str, object]]:
    job = placement.job
    yield "ALLOC_ID", directory.alloc
    yield "ALLOC_NAME", placement.name
    if index := re.search(r"\[(\d+)\]$", placement.name):
        yield "ALLOC_INDEX", int(index[1])
    yield "TASK_NAME", task.name
    yield "JOB_NAME", job.name or job.id
    if placement.dialect.has_new_client:
        yield "GROUP_NAME", placement.group.name
        yield "JOB_ID", job.id
        yield "JOB_PARENT_ID", job.parent_id
        yield "NAMESPACE", job.namespace or DEFAULT_NAMESPACE
        yield "DC", _datacenter(job)
        yield "REGION", placement.region


def _meta(placement: Placement, task: TaskView) -> Iterator[tuple[str, object]]:
    """Yield the variables of Meta: the task's replaces the group's, and that the job's."""
    scopes = (placement.job.meta, placement.group.meta, task.meta)
    for key, value in {key: value for scope in scopes for key, value in (scope or {}).items()}.items():
        yield f"META_{key.upper()}", value
        if placement.dialect.cleans_variables:
            yield f"META_{key}", value


def _ports(placement: Placement, task: TaskView) -> Iterator[tuple[str, object]]:
    """Yield the variables of static ports, which the job names itself."""
    for port in _ports_of(task.resources.networks if task.resources else None)[0]:
        yield f"PORT_{port.label}", port.value
        yield f"HOST_PORT_{port.label}", port.value
    if placement.dialect.cleans_variables:
        for sibling in placement.group.tasks or ():
            if sibling.name != task.name and sibling.resources is not None:
                for port in _ports_of(sibling.resources.networks)[0]:
                    yield f"PORT_{sibling.name}_{port.label}", port.value
    if placement.dialect.has_new_client:
        for port in _ports_of(placement.group.networks)[0]:
            yield f"PORT_{port.label}", port.to if port.to > 0 else port.value
            yield f"ALLOC_PORT_{port.label}", port.to if port.to > 0 else port.value
            yield f"HOST_PORT_{port.label}", port.value


def _unknown(placement: Placement, task: TaskView) -> Iterator[str]:
    """Yield the variables that depend on the node that Nomad would choose."""
    if task.resources is not None and task.resources.cores:
        yield "CPU_LIMIT"
    networks = (task.resources.networks if task.resources else None) or ()
    if placement.dialect.has_new_client:
        networks += placement.group.networks or ()
    reserved, dynamic = _ports_of(networks)
    for port in (*reserved, *dynamic):
        yield f"ADDR_{port.label}"
        yield f"IP_{port.label}"
    for port in dynamic:
        yield f"PORT_{port.label}"
        yield f"HOST_PORT_{port.label}"


def _ports_of(networks: tuple[NetworkResource, ...] | None) -> tuple[list[Port], list[Port]]:
    """Return the static and the dynamic ports of networks."""
    reserved = [port for network in networks or () for port in network.reserved_ports or ()]
    return reserved, [port for network in networks or () for port in network.dynamic_ports or ()]


def _node(placement: Placement) -> dict[str, str]:
    """Return the attributes of the node: this machine, in the first datacenter that the job names."""
    machine = platform.machine()
    node = {
        "node.datacenter": _datacenter(placement.job),
        "node.unique.name": platform.node(),
        "attr.cpu.arch": _ARCHITECTURES.get(machine, machine),
        "attr.cpu.numcores": str(os.cpu_count() or 1),
        "attr.driver.raw_exec": "1",
        "attr.kernel.name": platform.system().lower(),
        "attr.kernel.version": platform.release(),
        "attr.unique.hostname": platform.node(),
    }
    return {**node, "node.region": placement.region} if placement.dialect.has_new_client else node


def _datacenter(job: Job) -> str:
    return (job.datacenters or (_DEFAULT_DATACENTER,))[0]


def _filled(text: str, *sources: Mapping[str, str]) -> str:
    """Return a text with each reference replaced that a source has; the others stay."""
    return _REFERENCE.sub(
        lambda match: next((source[match[1]] for source in sources if match[1] in source), match[0]), text
    )


def _cleaned(name: str, dialect: Dialect) -> str:
    """Return the name of a variable, with the characters replaced that the dialect replaces for shells."""
    if not dialect.cleans_variables or (dialect.has_new_client and not name.startswith(_CLEANED)):
        return name
    allowed = rb"[^A-Za-z0-9_.]" if dialect.has_new_client else rb"[^A-Za-z0-9_]"
    return re.sub(rb"^[0-9]|" + allowed, b"_", os.fsencode(name)).decode()
