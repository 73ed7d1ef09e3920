"""A log in a file of JSON lines."""
