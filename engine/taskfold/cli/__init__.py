"""The command line, ``taskfold``: one file for each command.

Exit status: 0 fine; 1 the answer is no (a divergence, or nothing matched); 2 bad usage or input that cannot be read,
with one sentence on standard error; 130 after Ctrl-C; 141 when the reader of the output is gone.
"""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]

_MISSING_EXTRA = "taskfold needs its command line extra: pip install 'taskfold[cli]'\n"


def main() -> NoReturn:
    """Run the command that the process was started with, and exit."""
    try:
        import click
        import rich

        del click, rich
        from taskfold.cli._commands import taskfold
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.stderr.write(_MISSING_EXTRA)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    taskfold.main()
