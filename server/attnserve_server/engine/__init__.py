# SPDX-License-Identifier: Apache-2.0
"""The engine: front/ queues requests and sends them to workers, worker/ runs models, link/ connects the processes."""
