"""Tests of compiled loops ask for the compiler that models/fused would take."""

from __future__ import annotations

import os
import shutil

import pytest

THERE = shutil.which(os.environ.get("CXX", "c++")) is not None
needs_compiler = pytest.mark.skipif(not THERE, reason="there is no C++ compiler")
