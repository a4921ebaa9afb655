# SPDX-License-Identifier: Apache-2.0
"""Models that are not part of the project: a new model needs a new bundle and no change of the server."""
