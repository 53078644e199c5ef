"""A user's own parts, named FILE.py:NAME or PACKAGE.MODULE:NAME. Nothing is imported here."""
