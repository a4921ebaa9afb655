# SPDX-License-Identifier: Apache-2.0
"""How the number of users goes with time: `locust -f locustfile.py,shapes/spike.py`. Offered load is users times ``--rate`` in the
open loop.
"""
