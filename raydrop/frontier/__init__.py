"""Stage 4: from records to the frontier of average against worst-class or worst-group accuracy.

Reads an output folder and writes into it. Imports neither Ray nor torch, so a finished sweep can be
studied on any machine.
"""

from raydrop.frontier.harm import harm_table
from raydrop.frontier.records import Records, load_records
from raydrop.frontier.statistics.comparisons import comparisons
from raydrop.frontier.statistics.densities import correlation_points, density_points
from raydrop.frontier.statistics.fronts import pareto_front
from raydrop.frontier.statistics.intervals import (
    WorstEstimates,
    worst_class_interval,
    worst_estimates,
)
from raydrop.frontier.statistics.resampling import Resamples, resample
from raydrop.frontier.summary import remarks, summary_table
from raydrop.frontier.table import frontier_table
from raydrop.frontier.write import Frontier, write_frontier
from raydrop.metrics import (
    ClassMetrics,
    GroupMetrics,
    by_class,
    by_group,
    class_metrics,
    group_metrics,
)

__all__ = [
    "ClassMetrics",
    "Frontier",
    "GroupMetrics",
    "Records",
    "Resamples",
    "WorstEstimates",
    "by_class",
    "by_group",
    "class_metrics",
    "comparisons",
    "correlation_points",
    "density_points",
    "frontier_table",
    "group_metrics",
    "harm_table",
    "load_records",
    "pareto_front",
    "remarks",
    "resample",
    "summary_table",
    "worst_class_interval",
    "worst_estimates",
    "write_frontier",
]
