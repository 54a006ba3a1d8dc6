"""What tools/evaluate.py is made of: folders, test sets, columns, scores, tables and a gallery."""
