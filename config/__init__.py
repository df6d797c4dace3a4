"""What can be set, and nothing that computes."""
