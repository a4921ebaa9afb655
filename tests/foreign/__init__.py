# SPDX-License-Identifier: Apache-2.0
"""Models that the project does not know, to show that a new one is a new bundle and no server edit."""
