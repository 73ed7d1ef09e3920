"""What is read and compared: logs, event streams, allocation bodies. Internal: `taskfold` has the public names."""
