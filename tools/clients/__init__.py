"""Clients that were written for Nomad, pointed at `taskfold serve`: what they get, and the table of it.

`make clients` installs each in an environment of its own, has it ask a server over a recorded cluster, compares what it
got with what the agent of the recording knew, and writes ``tests/data/clients/results.json`` and the table of
docs/serving.md.
"""
