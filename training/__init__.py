"""The machinery of a run: averages, schedules, checkpoints, logs, pictures, processes.

It knows no particular network, loss or data set.
"""
