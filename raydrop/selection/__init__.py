"""How many samples each class or group keeps, and which ones. Pure NumPy."""

from raydrop.selection.quotas import QUOTAS as QUOTAS
from raydrop.selection.quotas import QuotaRule as QuotaRule
from raydrop.selection.quotas import balanced_quotas as balanced_quotas
from raydrop.selection.quotas import drop_densities as drop_densities
from raydrop.selection.quotas import drop_quotas as drop_quotas
from raydrop.selection.quotas import proportional_quotas as proportional_quotas
from raydrop.selection.quotas import quota_rule as quota_rule
from raydrop.selection.quotas import quotas_at_rates as quotas_at_rates
from raydrop.selection.quotas import quotas_from_counts as quotas_from_counts
from raydrop.selection.quotas import smooth_recalls as smooth_recalls
from raydrop.selection.select import best_first as best_first
from raydrop.selection.select import budget_for as budget_for
from raydrop.selection.select import select as select
