"""The handlers of Nomad's endpoints, and what they keep at hand."""
