# SPDX-License-Identifier: Apache-2.0
"""The link between front and workers: messages, and the sockets that carry them."""
