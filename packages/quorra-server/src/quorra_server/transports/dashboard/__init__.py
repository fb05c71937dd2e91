"""The dashboard door: plain pages that work without scripts."""
