"""Benchmarks of this machine: the network alone, and images from file to cutout."""
