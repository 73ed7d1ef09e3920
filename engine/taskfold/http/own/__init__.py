"""The handlers of taskfold's own endpoints, and of the agent's health and metrics."""
