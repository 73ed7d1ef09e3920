"""Drivers: what runs the processes of tasks, and tells an engine what becomes of them (Linux)."""
