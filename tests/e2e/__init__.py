# SPDX-License-Identifier: Apache-2.0
"""A real server, asked over gRPC."""
