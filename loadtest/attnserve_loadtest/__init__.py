# SPDX-License-Identifier: Apache-2.0
"""Load tests of an attnserve server with Locust: `make loadtest`, or `locust -f loadtest/attnserve_loadtest/locustfile.py`.

``locustfile.py`` is what Locust reads, with one of ``shapes/`` beside it or none. ``users.py`` are the clients, closed loop and
open; ``percentiles.py`` is finer than Locust's own statistics; ``server_side.py`` reads what the server measured itself; ``slo.py``
decides the exit code; ``hot_path.py`` sweeps what attention costs.
"""
