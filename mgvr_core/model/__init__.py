"""The multi-granularity model: CLIP's towers, the temporal encoder, the losses and the checkpoints."""
