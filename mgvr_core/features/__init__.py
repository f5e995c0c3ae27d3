"""The feature set: one row a video, immutable shards, versioned snapshots."""
