# SPDX-License-Identifier: Apache-2.0
"""``attnserve profile``: where a step's time goes, by operator and by the part of the paper that a node belongs to.

``command.py`` is the command, ``measure.py`` runs a bundle as the server does, ``picture.py`` draws (it needs the extra ``cli``).
"""
