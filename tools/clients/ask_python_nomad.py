"""Ask by python-nomad."""

from __future__ import annotations

import nomad
from telling import ALLOC, COUNT, ENDED, HOST, INDEX, JOB, OTHER, PORT, TASK, ids, last_events, comparable, tell

client = nomad.Nomad(host=HOST, port=PORT, timeout=30)


def blocking():
    reply = client.allocation.request(ALLOC, params={"index": INDEX, "wait": "300ms"}, method="get")
    return [reply.elapsed.total_seconds() >= 0.3, int(reply.headers["X-Nomad-Index"])]


def stream():
    thread, leave, frames = client.event.stream.get_stream(index=1, topic={"Allocation": "*"}, timeout=30)
    thread.daemon = True
    thread.start()
    names: set[str] = set()
    while len(names) < COUNT:
        names |= {event["Payload"]["Allocation"]["ID"] for event in frames.get(timeout=30).get("Events") or ()}
    leave.set()
    return sorted(names)


def restart():
    client.client.allocation.restart_allocation(OTHER)
    return "Restart Signaled" in last_events(client.allocation.get_allocation(OTHER))


def stop():
    answer = client.allocation.stop_allocation(ALLOC)
    return [len(answer["EvalID"]), client.allocation.get_allocation(ALLOC)["DesiredStatus"]]


tell("list", "allocations.get_allocations", lambda: ids(client.allocations.get_allocations()))
tell("prefix", "allocations.get_allocations(prefix)", lambda: ids(client.allocations.get_allocations(ALLOC[:8])))
tell("read", "allocation.get_allocation", lambda: comparable(client.allocation.get_allocation(ALLOC)))
tell("jobs", "jobs.get_jobs", lambda: ids(client.jobs.get_jobs()))
tell("job", "job.get_job", lambda: [client.job.get_job(JOB)[name] for name in ("ID", "Version", "Status")])
tell("allocations of a job", "job.get_allocations", lambda: ids(client.job.get_allocations(JOB)))
tell("summary", "job.get_summary", lambda: client.job.get_summary(JOB)["Summary"]["g"]["Running"])
tell("search", "search.search", lambda: client.search.search(JOB, "jobs")["Matches"]["jobs"])
tell("blocking query", "allocation.request(index, wait)", blocking)
tell("stream", "event.stream.get_stream", stream)
tell(
    "use of what has ended",
    "client.allocation.read_allocation_stats",
    lambda: client.client.allocation.read_allocation_stats(ENDED)["Tasks"],
)
tell("logs", "client.stream_logs.stream", lambda: client.client.stream_logs.stream(ALLOC, TASK, "stdout", plain=True))
tell("evaluations", "job.get_evaluations", lambda: ids(client.job.get_evaluations(JOB)))
tell("restart", "client.allocation.restart_allocation", restart)
tell("stop", "allocation.stop_allocation", stop)
