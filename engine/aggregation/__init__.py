"""From the hospitals' updates to the next global model. Nothing is imported here."""
