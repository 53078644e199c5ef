"""Hospitals that judge the updates of a round before these become a model. Nothing is imported here."""
