"""Drawings: values that hold what a figure shows, and their drawing."""
