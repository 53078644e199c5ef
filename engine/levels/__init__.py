"""Levels between hospitals and coordinator: edges that add up the updates of their hospitals, and what that takes."""
