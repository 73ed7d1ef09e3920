"""The words: events, inputs, effects, records, dialects, errors. Internal: `taskfold` has the public names."""
