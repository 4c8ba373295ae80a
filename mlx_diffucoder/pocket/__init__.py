"""The bundled checkpoint: a 5.1M-parameter DiffuCoder-style model that writes small Python functions."""
