# SPDX-License-Identifier: Apache-2.0
"""HTTP: endpoints for probes and for Prometheus. Only this package imports Starlette and Uvicorn."""
