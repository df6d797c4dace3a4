"""`python -m bgpipe.workers.start`: a worker process (bgpipe.workers.process), as the supervisor starts it.

Nothing heavy is imported at the top: the garbage collector has to be off before that.
"""

from __future__ import annotations

import gc


def main() -> None:
    """Work until told to stop; exit codes as bgpipe's."""
    # Imports leave no garbage, and the search for it takes a seventh of their time.
    gc.disable()
    from bgpipe.workers import lifecycle, process

    lifecycle.exit_now(process.main())


if __name__ == "__main__":
    main()
