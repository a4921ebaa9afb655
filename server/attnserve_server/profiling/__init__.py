# SPDX-License-Identifier: Apache-2.0
"""``attnserve profile``: the time of a step by operator and by part of the paper.

``command.py`` is the command, ``measure.py`` runs a bundle as the server does, ``picture.py`` draws a chart (extra ``cli``).
"""
