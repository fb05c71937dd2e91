"""What a server does by itself: each loop is a `run_once()` and shares one interval runner."""
