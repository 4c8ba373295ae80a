"""Learning: the masked-diffusion objective, the one training loop, what is written and gone on from; the task maker."""
