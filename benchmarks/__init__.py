"""Benchmarks of taskfold, each beside its rivals in the same run: ``python -m benchmarks [SUBJECT ...]``.

Every subject is a module with a function ``measure(quick) -> list[Row]``. `harness` measures, `report` writes and shows
the results, `histories` and `streams` make the data: the same on every machine, from fixed seeds. Nothing here asserts
on time; a budget that is missed is shown as missed.
"""
