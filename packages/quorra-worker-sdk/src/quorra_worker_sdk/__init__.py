"""The Quorra worker SDK."""
