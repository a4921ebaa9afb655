# SPDX-License-Identifier: Apache-2.0
"""Metrics: their names and meanings (``intervals``), the Prometheus objects (``prometheus``), their text (``exposition``)."""
