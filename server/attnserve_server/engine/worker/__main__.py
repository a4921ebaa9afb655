# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_server.engine.worker DESCRIPTOR NAME DEVICE``: a worker process, see ``worker.py``."""

from attnserve_server.engine.worker.worker import main

if __name__ == "__main__":
    main()
