"""A privacy mechanism as one record of its parts and its price. Nothing is imported here."""
