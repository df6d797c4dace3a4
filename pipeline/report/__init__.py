"""The contact sheet of a job."""
