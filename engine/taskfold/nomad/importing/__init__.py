"""From what a real Nomad says to records.

An `observation` is what one answer says of an allocation, and a fact (`facts`) what a stream says of its job. The
`importer` compares each with the state that it folds, by way of `rings`, and writes records. It remembers who has told
what (`memory`), what leads to nothing again (`repeats`), the fields of late (`sights`), and what streams told of jobs
(`job_finder`); `writes` names a write as Nomad does.
"""
