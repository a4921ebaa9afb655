# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_client.cli``: the same as ``attnserve``."""

import sys

from attnserve_client.cli import main

sys.exit(main())
