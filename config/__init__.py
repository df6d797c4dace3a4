"""Settings, presets, models and sweeps as checked data; nothing here computes."""
