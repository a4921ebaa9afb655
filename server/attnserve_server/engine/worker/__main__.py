# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_server.engine.worker DESCRIPTOR NAME DEVICE MEMORY``: a worker process, see ``worker.py``."""

from attnserve_server.process import ignore_stop_signals, show_stacks_on_signal

if __name__ == "__main__":
    ignore_stop_signals()  # before the imports that take long
    show_stacks_on_signal()
    from attnserve_server.engine.worker.worker import main

    main()
