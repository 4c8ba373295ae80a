"""The bundled checkpoint: a 5.0M-parameter DiffuCoder-style model that writes small Python functions."""
