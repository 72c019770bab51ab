"""How good a model is at tasks whose answers can be checked: figures with intervals, comparisons, reports."""
