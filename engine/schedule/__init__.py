"""Who works when, and who judges. Nothing is imported here."""
