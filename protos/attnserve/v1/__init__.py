# SPDX-License-Identifier: Apache-2.0
"""The wire contract: generated from the .proto files beside it by `make protos`."""
