"""The small models of `small_models.py` as fixtures."""

from small_models import captions, seed, tiny_model

__all__ = ["captions", "seed", "tiny_model"]
