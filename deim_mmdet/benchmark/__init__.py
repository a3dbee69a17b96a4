# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Training steps that are timed phase by phase, here and in other implementations: what the tools
that measure training share."""
