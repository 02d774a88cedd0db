"""Pruning the network itself, one method per file."""
