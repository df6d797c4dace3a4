"""Flower's options: `celery --broker="$BGPIPE_REDIS_URL" flower --conf=config/flowerconfig.py`.

Flower runs this file; each name is one of its options, and its command line wins. The password comes
from FLOWER_BASIC_AUTH=user:password or --basic-auth, and there has to be one: Flower alone would be
open to everybody who reaches its port.
"""

from tornado.options import options

from bgpipe.config.settings import load_settings

if not options.basic_auth:
    raise SystemExit("flower needs a password: set FLOWER_BASIC_AUTH=user:password")

address = "127.0.0.1"
read_only = True
# Some 4 KB of memory each; beyond them the oldest are dropped.
max_tasks = 10_000
persistent = True
db = str(load_settings().state_folder / "flower")
state_save_interval = 60_000  # milliseconds
purge_offline_workers = 3_600  # seconds
# Flower's own choice hides the arguments: job, index and the image's key.
tasks_columns = "name,args,state,received,runtime,worker"

load_settings().state_folder.mkdir(parents=True, exist_ok=True)
