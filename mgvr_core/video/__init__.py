"""From a video file to the model's frames: which instants, which frames, in a process that may die of it."""
