# SPDX-License-Identifier: Apache-2.0
"""The export side: recipes, training that continues after a kill, bundles, and the check before one is shipped."""
