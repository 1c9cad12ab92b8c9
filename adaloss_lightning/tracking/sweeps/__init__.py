"""Sweeps: a parent run, and a child run for each point of a grid."""
