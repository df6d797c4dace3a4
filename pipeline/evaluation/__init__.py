"""Scores of models and presets against ground truth."""
