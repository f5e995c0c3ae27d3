"""The scores of docs/method.md: pure functions on tensors, one file a score, with its formula, source and cost.

Every function takes L2-normalised features and returns cosines (not multiplied by exp(logit_scale)): the temperature
changes no ranking and belongs to the loss. Sizes: T texts, V videos, F frames, P patches a frame, D dimensions.
"""
