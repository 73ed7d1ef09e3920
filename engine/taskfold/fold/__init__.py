"""The consequences of an event: the lifecycle table, tasks, allocations. Internal: `taskfold` has the public names."""
