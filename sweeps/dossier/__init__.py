"""The file for the regulator: what the software does, tied to tests; what was measured; and what people must add."""
