"""The handlers of Nomad's endpoints, and their caches."""
