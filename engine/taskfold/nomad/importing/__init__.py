"""Importing: observations of a real Nomad become records.

An `observation` is one source's report on an allocation; a fact (`facts`) is a stream's report on a job. The `importer`
compares each with the state that it folds, by way of `rings`, and writes records. `memory` holds the provenance of
allocations, `repeats` and `field_cache` are caches, `job_finder` concludes the Job of an allocation from facts, and
`writes` names a write as Nomad does.
"""
