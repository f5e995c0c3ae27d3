"""What a ranking is worth: metrics, their intervals, run files for other tools, and the report."""
