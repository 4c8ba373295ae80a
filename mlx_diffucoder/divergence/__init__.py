"""How far one network is from another at masked positions: canvases, forwards, KL. `evaluation` and `convert` use it."""
