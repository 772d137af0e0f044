# SPDX-License-Identifier: Apache-2.0
"""The public suites, run over every kind of disk that diskkit reads."""
