# SPDX-License-Identifier: Apache-2.0
"""What front and workers share: messages, and the sockets that carry them."""
