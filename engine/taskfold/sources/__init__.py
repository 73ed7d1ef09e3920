"""Sources (logs, event streams, allocation bodies), and their replay, import, comparison and verification."""
