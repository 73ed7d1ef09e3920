"""Ask by nomadpy."""

from __future__ import annotations

from datetime import timedelta
from time import perf_counter

from nomadpy import Client, QueryOptions
from telling import ALLOC, COUNT, ENDED, INDEX, JOB, OTHER, TASK, last_events, comparable, tell

client = Client()


def read(alloc):
    return client.allocations.info(alloc)[0].to_json()


def names(entries):
    return sorted(entry.id for entry in entries)


def job():
    job = client.jobs.info(JOB)[0].to_json()
    return [job[name] for name in ("ID", "Version", "Status")]


def blocking():
    begin = perf_counter()
    options = QueryOptions(wait_index=INDEX, wait_time=timedelta(seconds=0.3))
    _, meta = client.allocations.info(ALLOC, options)
    return [perf_counter() - begin >= 0.3, meta.last_index]


def stream():
    ids_seen: set[str] = set()
    for events in client.event_stream.stream({"Allocation": ["*"]}, index=1, timeout=30):
        ids_seen |= {event.allocation().id for event in events.events}
        if len(ids_seen) >= COUNT:
            break
    return sorted(ids_seen)


def use():
    return client.allocations.stats(ENDED).to_json()["Tasks"]


def logs():
    frames = client.alloc_fs.logs(ALLOC, False, TASK, "stdout", "start", 0, timeout=30)
    return b"".join(frame.data_bytes() for frame in frames).decode()


def restart():
    client.allocations.restart(OTHER)
    return "Restart Signaled" in last_events(read(OTHER))


def stop():
    answer = client.allocations.stop(ALLOC)[0].to_json()
    return [len(answer["EvalID"]), read(ALLOC)["DesiredStatus"]]


tell("list", "allocations.list", lambda: names(client.allocations.list()[0]))
tell("prefix", "allocations.prefix_list", lambda: names(client.allocations.prefix_list(ALLOC[:8])[0]))
tell("read", "allocations.info", lambda: comparable(read(ALLOC)))
tell("jobs", "jobs.list", lambda: names(client.jobs.list()[0]))
tell("job", "jobs.info", job)
tell("allocations of a job", "jobs.allocations", lambda: names(client.jobs.allocations(JOB)[0]))
tell("summary", "jobs.summary", lambda: client.jobs.summary(JOB)[0].to_json()["Summary"]["g"]["Running"])
tell("search", "search.prefix_search", lambda: client.search.prefix_search(JOB, "jobs")[0].to_json()["Matches"]["jobs"])
tell("blocking query", "allocations.info(QueryOptions)", blocking)
tell("stream", "event_stream.stream", stream)
tell("use of what has ended", "allocations.stats", use)
tell("logs", "alloc_fs.logs", logs)
tell("evaluations", "jobs.evaluations", lambda: names(client.jobs.evaluations(JOB)[0]))
tell("restart", "allocations.restart", restart)
tell("stop", "allocations.stop", stop)
