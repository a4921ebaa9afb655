# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_client.demo``: starts a server on the default models, asks it, prints the answers (``cli,server,cpu``).

Opened first: ``steps.py``, the list of what is shown for each task; ``runner.py`` goes through it for every model that is served.
"""
