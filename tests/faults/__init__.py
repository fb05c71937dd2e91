"""Fault runs: real processes are hurt in many ways while an independent judge looks on."""
