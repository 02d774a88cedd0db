"""Methods that prune a network, one per file."""
