# SPDX-License-Identifier: Apache-2.0
"""Single-pass models: our server against LitServe and BentoML, which run the same ONNX graph in environments of their own.

``work.py``, ``litserve_app.py``, ``bentoml_app.py`` and ``clock/`` run in the peers' environments, which do not have this project's
packages: these files import only the standard library, NumPy, Pillow, ONNX Runtime and their framework.
"""
