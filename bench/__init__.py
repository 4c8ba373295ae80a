"""Measurements of this machine and of a model on it. Installed as `mlx_diffucoder.bench`.

`bench.studies` (one-off measurements) and `bench.pocket` (how the bundled model was made) are in the checkout only.
"""
