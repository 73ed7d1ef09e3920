"""A log in an SQLite database."""
