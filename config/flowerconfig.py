"""Flower's options, read by `bgpipe flower`: each name is one of them."""

read_only = True
# Some 4 KB of memory each; beyond them the oldest are dropped.
max_tasks = 10_000
persistent = True
state_save_interval = 60_000  # milliseconds
purge_offline_workers = 3_600  # seconds
# Flower's own choice hides the arguments: job, index and the image's key.
tasks_columns = "name,args,state,received,runtime,worker"
