"""Two-stage search: coarse candidates, a rerank of those alone, and the ranks that follow."""
