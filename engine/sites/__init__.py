"""Hospitals at sites of their own: processes that join a coordinator over mutually authenticated TLS. Nothing is imported here."""
