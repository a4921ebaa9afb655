# SPDX-License-Identifier: Apache-2.0
"""How the number of users changes during a test: name one after the locustfile, ``-f locustfile.py,shapes/spike.py``."""
