"""What tools/submit.py is made of: checks, scores, zips and what belongs to a hand-in."""
