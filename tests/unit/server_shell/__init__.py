# SPDX-License-Identifier: Apache-2.0
"""The server's shell: transport, metrics and configuration, with a fake front."""
