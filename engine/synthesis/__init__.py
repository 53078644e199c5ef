"""Synthetic beats: generators, balancing of the train data, evidence of quality and privacy. Nothing is imported here."""
