"""Benchmarks: real processes, real PostgreSQL, nothing switched off that a user has on."""
