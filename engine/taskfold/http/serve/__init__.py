"""The server below the endpoints: connections, processes, other regions, limits."""
