"""Training: the loop, loss weightings, the budget rule, and the trace that a query run leaves."""
