"""Machinery of a run, without opinions: averages, schedule, checkpoints, log, pictures; it knows no network and no data."""
