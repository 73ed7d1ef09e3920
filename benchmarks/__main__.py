"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from time import perf_counter

from benchmarks import report


def main() -> None:
    """Run the subjects that are named, all without one; show and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="taskfold beside its rivals.")
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"one of {', '.join(report.SUBJECTS)}; all if none"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test at a hundredth of the sizes")
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="where the results are (default: benchmarks/results)"
    )
    parser.add_argument("--table", action="store_true", help="only print the table of the results that are there")
    parser.add_argument(
        "--write-pages", type=Path, nargs="?", const=report.ROOT, metavar="DIR",
        help="only put the results that are there between the markers of the pages of this checkout, or of DIR",
    )  # fmt: skip
    arguments = parser.parse_args()
    if unknown := set(arguments.subjects) - set(report.SUBJECTS):
        parser.error(f"there is no subject {', '.join(sorted(unknown))}")
    folder: Path | None = arguments.results or (None if arguments.quick else report.RESULTS)
    if arguments.table:
        print(report.table(folder or report.RESULTS), end="")
    elif arguments.write_pages:
        report.write_pages(arguments.write_pages, folder or report.RESULTS)
    else:
        run(arguments.subjects or list(report.SUBJECTS), folder, quick=arguments.quick)


def run(subjects: list[str], folder: Path | None, *, quick: bool) -> None:
    """Measure; without a folder nothing is written. The pages show the results of this checkout."""
    for subject in subjects:
        start = perf_counter()
        module = importlib.import_module(f"benchmarks.{subject}")
        print(f"\n== {subject}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        rows = []
        for row in module.measure(quick=quick):
            report.show(row)
            rows.append(row)
        print(f"\n   {perf_counter() - start:.0f} s", flush=True)
        if folder is not None:
            report.write(subject, rows, folder, quick=quick)
    if folder == report.RESULTS:
        report.write_pages(report.ROOT, folder)


if __name__ == "__main__":
    main()
