# SPDX-License-Identifier: Apache-2.0
"""``python -m attnserve_client.demo``: starts a server on the default models and prints its answers (``cli,server,cpu``).

Read first: ``steps.py``, the list of steps for each task; ``runner.py`` runs them for every served model.
"""
