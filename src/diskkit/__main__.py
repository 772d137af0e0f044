# SPDX-License-Identifier: Apache-2.0
"""`python -m diskkit`."""

import sys

from diskkit.cli import main

sys.exit(main())
