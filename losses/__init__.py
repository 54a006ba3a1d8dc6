"""Losses: f(output, target) -> scalar float32, smaller is better; weights belong to the task that adds them up."""
