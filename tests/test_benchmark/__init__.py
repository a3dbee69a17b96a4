# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
