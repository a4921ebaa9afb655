# SPDX-License-Identifier: Apache-2.0
"""What every protocol calls: resolve the model, prepare the request, submit it, render the answer, in domain types."""
