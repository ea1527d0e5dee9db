"""Declares the C extension; everything else stands in setup.cfg.

The extension is optional: where it cannot be compiled, or with ``ACEBASE_IPC_PURE=1``, the
package works in pure Python.
"""

import os

from setuptools import Extension, setup

SPEEDUPS = Extension(
    "acebase_ipc._speedups",
    ["src/acebase_ipc/_speedups.c"],
    py_limited_api=True,
    optional=True,
)

IS_PURE = os.environ.get("ACEBASE_IPC_PURE", "0") not in {"", "0"}

setup(
    ext_modules=[] if IS_PURE else [SPEEDUPS],
    options={} if IS_PURE else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
