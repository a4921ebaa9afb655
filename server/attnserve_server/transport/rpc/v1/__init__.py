# SPDX-License-Identifier: Apache-2.0
"""One servicer for each service of attnserve.v1; they see requests, answers and calls, and nothing of grpc."""
