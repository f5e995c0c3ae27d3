"""Multi-granularity video retrieval as a plain library: everything but Ray."""
