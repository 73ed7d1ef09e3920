#!/usr/bin/env bash
# What `make demo` shows: the state that a recorded event stream leaves behind, then how one of its tasks got there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stream=examples/nomad-1.1.2-stream.ndjson.gz

taskfold replay "$stream"

# The first task of the first allocation, whatever the recording holds.
read -r allocation task < <(taskfold replay "$stream" --format jsonl | python -c '
import json, sys
allocation = next(body for body in map(json.loads, sys.stdin) if body["TaskStates"])
print(allocation["ID"], sorted(allocation["TaskStates"])[0])
')
echo
taskfold history "$stream" "$allocation" "$task"
