# SPDX-License-Identifier: Apache-2.0
"""One servicer per service of attnserve.v1; servicers use messages and calls, and nothing of grpc."""
