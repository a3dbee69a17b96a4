# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What the tools that measure share: training steps timed phase by phase, and detectors by their
latency, here and in other implementations; memory; and runs that are compared epoch by epoch."""
