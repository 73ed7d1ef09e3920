"""What follows from an input: rule books, restarts, groups. Internal: `taskfold` has the public names."""
