"""The supervisor, which runs tasks as processes. Internal: the command `taskfold run` uses it."""
