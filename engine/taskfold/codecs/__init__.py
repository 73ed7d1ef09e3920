"""Nomad's JSON: reading and writing it byte for byte, in every dialect."""
