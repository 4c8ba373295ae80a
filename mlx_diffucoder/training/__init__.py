"""Training: the objectives, the one training loop, and the folder of a run."""
