"""Examples that run for real; start with `workers.py`."""
