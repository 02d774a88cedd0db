"""Drawings: values computed from tables and the store, and figures that show them."""
