# SPDX-License-Identifier: Apache-2.0
"""HTTP: the pages for probes and for Prometheus. Only this package imports Starlette and Uvicorn."""
