"""The Quorra command line."""
