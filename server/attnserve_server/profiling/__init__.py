# SPDX-License-Identifier: Apache-2.0
"""``attnserve profile``: the time of a step by operator and by part of the paper.

``command.py`` is the command; ``measure.py`` runs models that decode step by step, as the server does, ``passes.py`` those of a
single pass; ``picture.py`` draws a chart (extra ``cli``).
"""
