# SPDX-License-Identifier: Apache-2.0
"""One servicer for each gRPC service; they see requests, answers and ``rpc.Call``, and nothing of grpc."""
