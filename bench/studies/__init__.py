"""One-off measurements behind numbers in docs/results. Not installed: run `python -m bench.studies.NAME` from a checkout."""
