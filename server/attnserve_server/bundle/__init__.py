# SPDX-License-Identifier: Apache-2.0
"""Bundles as the server reads them: the manifest, checked, and the model repository."""
