# SPDX-License-Identifier: Apache-2.0
"""The maker's side: recipes, training that survives a kill, bundles, and the check before one is shipped."""
