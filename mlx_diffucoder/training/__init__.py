"""Learning: what a masked-diffusion model is trained on, and how."""
