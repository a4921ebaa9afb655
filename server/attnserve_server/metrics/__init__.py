# SPDX-License-Identifier: Apache-2.0
"""Metrics: interval definitions (``intervals``), Prometheus objects (``prometheus``), exposition format (``exposition``), logs."""
