"""Scoring methods, one per file."""
