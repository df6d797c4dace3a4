"""Options of Flower, loaded by `bgpipe flower`."""

read_only = True
# About 4 KB of memory each; the oldest are dropped first.
max_tasks = 10_000
persistent = True
state_save_interval = 60_000  # milliseconds
purge_offline_workers = 3_600  # seconds
# Flower's default hides the arguments: job, index and the image's key.
tasks_columns = "name,args,state,received,runtime,worker"
