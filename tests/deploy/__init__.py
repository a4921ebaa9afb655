# SPDX-License-Identifier: Apache-2.0
"""Tests of ``deploy/`` with the real tools; ``make test-deploy`` runs them."""
