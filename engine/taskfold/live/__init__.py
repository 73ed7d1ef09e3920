"""The engine and its parts. Internal: `taskfold` has the public names."""
