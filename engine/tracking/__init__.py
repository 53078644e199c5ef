"""MLflow, off the critical path. Nothing is imported here."""
