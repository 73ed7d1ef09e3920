"""What follows from an event: the lifecycle table, tasks, allocations. Internal: `taskfold` has the public names."""
