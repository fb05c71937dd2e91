"""The tests of Quorra; they read as its specification."""
