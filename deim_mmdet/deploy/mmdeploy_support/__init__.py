# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What mmdeploy lacks for the detectors here, by its public registries; mmdeploy stays as it is.

A deploy config asks for it by :data:`.deploy_config.MODULES` in ``codebase_config.module``; those
that do not get what mmdeploy does by itself.
"""

from . import backends, export, task  # noqa: F401  registered by their import
