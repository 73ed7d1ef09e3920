"""Decisions on inputs: rule books, restarts, groups. Internal: `taskfold` has the public names."""
