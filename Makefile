# Stub: replaced by the house.
PYTHON ?= python3
