"""Passes that fold."""
