"""The Ray jobs: one a module, over the plain library `mgvr_core`."""
