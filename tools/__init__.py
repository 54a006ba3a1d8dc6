"""Scripts around runs and data sets: prepare, evaluate, compare, export, report, submit."""
