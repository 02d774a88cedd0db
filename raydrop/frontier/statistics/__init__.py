"""How sure the numbers of a frontier are: intervals, comparisons, fronts."""
