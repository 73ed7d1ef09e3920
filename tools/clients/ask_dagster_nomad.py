"""Ask by the client of dagster-nomad's run launcher."""

from __future__ import annotations

from dagster_nomad.run_launcher import NomadClient
from telling import FACTS, JOB, URL, tell

client = NomadClient(URL)

tell("status of a run", "get_job_status", lambda: list(client.get_job_status(FACTS["ended"])))
tell("start of a run", "dispatch_job", lambda: client.dispatch_job(JOB, "payload", {}))
tell("stop of a run", "stop_job", lambda: client.stop_job(JOB))
