# SPDX-License-Identifier: Apache-2.0
"""The engine's part in the front process: queues, credits, deadlines, workers. It handles envelopes, and reads no payload."""
