"""The multi-granularity model: CLIP's towers, the temporal encoder, and the checkpoints."""
