# SPDX-License-Identifier: Apache-2.0
"""Shapes: how the number of users changes during a test. Use: ``-f locustfile.py,shapes/spike.py``."""
