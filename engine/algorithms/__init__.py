"""A hospital's work: frozen records of pure functions over flat float32 vectors. Nothing is imported here."""
