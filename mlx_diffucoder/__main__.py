"""`python -m mlx_diffucoder`: the same command as `diffucode`."""

from .cli import main

if __name__ == "__main__":
    main()
