# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""What the tools that measure training share: training steps timed phase by phase, here and in
other implementations, and runs that are compared epoch by epoch."""
