"""The engine and what it is made of. Internal: `taskfold` has the public names."""
