# SPDX-License-Identifier: Apache-2.0
"""The engine: front/ takes requests and hands them out, worker/ runs models, link/ is what the two processes share."""
