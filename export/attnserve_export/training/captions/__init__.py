# SPDX-License-Identifier: Apache-2.0
"""The training of a captioning model: photos and captions, cached features, the trainer, and the loss of hard attention."""
