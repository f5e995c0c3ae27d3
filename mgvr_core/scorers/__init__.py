"""Every scorer: EERCF's own and those of other systems, each on the same stored features, one file a scorer."""
