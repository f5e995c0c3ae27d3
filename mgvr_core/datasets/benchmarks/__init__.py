"""The benchmarks of the field: their annotation files as users have them, and the rules of their figures."""
