"""What a finished job is shown as."""
