"""Reading what a real Nomad says: its event stream, and the answers of its HTTP API."""
