"""One module for each scenario; each has `run(stage, short)` and returns rows."""
