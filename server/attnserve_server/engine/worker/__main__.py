# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_server.engine.worker DESCRIPTOR NAME DEVICE MEMORY STACKS``: a worker process, see ``worker.py``."""

import sys

from attnserve_server.process import ignore_stop_signals, show_stacks_on_signal, write_stacks_on_signal

if __name__ == "__main__":
    ignore_stop_signals()  # before the imports that take long
    show_stacks_on_signal()
    if int(sys.argv[5]) >= 0:
        write_stacks_on_signal(int(sys.argv[5]))
    from attnserve_server.engine.worker.worker import main

    main()
