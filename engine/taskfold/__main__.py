"""``python -m taskfold`` is the command line."""

from taskfold.cli import main

if __name__ == "__main__":
    main()
