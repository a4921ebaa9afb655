# SPDX-License-Identifier: Apache-2.0
"""The front process' side of the engine: queues, credits, deadlines, workers. It handles envelopes and reads no payload."""
