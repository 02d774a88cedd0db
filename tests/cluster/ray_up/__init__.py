"""Machines for a real `ray up`, made of namespaces, and what stands in for their surroundings."""
