"""The endpoint of what an allocation uses: measured where its tasks run beside this server, else nothing.

Source of the form: client/structs/structs.go AllocResourceUsage, as recorded of 1.1.2.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from taskfold.http.answers import Answer, error, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.nomad.allocations import find
from taskfold.http.nomad.options import Options
from taskfold.http.query import is_pretty
from taskfold.http.request import Request
from taskfold.run.usage import ProcessUsage

__all__ = ["client_stats"]

_CPU_MEASURED: Final = ("System Mode", "User Mode", "Percent")
_MEMORY_MEASURED: Final = ("RSS", "Swap")
_encode: Final = msgspec.json.Encoder().encode


async def client_stats(context: Context, request: Request, _: Options, text: str) -> Answer:
    """Answer ``GET /v1/client/allocation/<id>/stats``; of what does not run here as a client of what has ended."""
    is_indented = is_pretty(request.query)
    alloc = find(context, text)
    if isinstance(alloc, Answer) or alloc not in context.engine.reader:
        return error(404, f'Unknown allocation "{text}"')
    tasks = None if context.tasks is None else await context.tasks.usage(alloc)
    body = _encode(_usage({} if tasks is None else tasks, context.clock.time_ns()))
    return json_answer(pretty(body) if is_indented else body)


def _usage(tasks: dict[str, dict[int, ProcessUsage]], time_ns: int) -> dict[str, Any]:
    """Return what an allocation uses: all of it, and of each task, and of each of its processes."""
    processes = [usage for pids in tasks.values() for usage in pids.values()]
    return {
        "ResourceUsage": {**_resources(processes), "DeviceStats": []},
        "Tasks": {
            task: {
                "Pids": {str(pid): _resources([usage]) for pid, usage in pids.items()} or None,
                "ResourceUsage": _resources(pids.values()),
                "Timestamp": time_ns,
            }
            for task, pids in tasks.items()
        },
        "Timestamp": time_ns if processes else 0,
    }


def _resources(processes: Collection[ProcessUsage]) -> dict[str, Any]:
    """Return what processes use together; of none nothing is measured."""
    user = sum(each.user_percent for each in processes)
    system = sum(each.system_percent for each in processes)
    return {
        "CpuStats": {
            "Measured": _CPU_MEASURED if processes else None,
            "Percent": user + system + 0.0,
            "SystemMode": system + 0.0,
            "ThrottledPeriods": 0,
            "ThrottledTime": 0,
            "TotalTicks": sum(each.mhz for each in processes) + 0.0,
            "UserMode": user + 0.0,
        },
        "DeviceStats": None,
        "MemoryStats": {
            "Cache": 0,
            "KernelMaxUsage": 0,
            "KernelUsage": 0,
            "MaxUsage": 0,
            "Measured": _MEMORY_MEASURED if processes else None,
            "RSS": sum(each.rss_bytes for each in processes),
            "Swap": sum(each.swap_bytes for each in processes),
            "Usage": 0,
        },
    }
