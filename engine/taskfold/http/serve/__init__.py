"""What carries the endpoints: connections, processes, other regions, limits."""
