"""Measurements. Installed as `mlx_diffucoder.bench`."""
