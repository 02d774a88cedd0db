"""Methods that prune a network, by what they look at."""
