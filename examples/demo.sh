#!/usr/bin/env bash
# What `make demo` shows: the state that a recorded event stream of a real Nomad leaves behind, then how one of its tasks
# got there. The stream was cut off while some jobs were still running; its agent lost two stretches of the fast
# restarts of e368643b, which the history marks. Last, a job is run: real processes, one of which fails at first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stream=examples/nomad-1.1.2-stream.ndjson.gz

show() {
    printf '$ %s\n' "$*"
    "$@"
    echo
}

show taskfold replay "$stream"
show taskfold history "$stream" e368643b main
show taskfold verify "$stream"
show taskfold run examples/job.json
